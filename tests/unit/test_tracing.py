"""Which trace a message belongs to, what its spans say, and that a broken header costs nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from notifyd.errors import ConfigError
from notifyd.log import configure_logging
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.tracing import Tracing, add_trace_ids, current_traceparent, read_traceparent, traceparent_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TOLD = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"


class _Traced:
    """A `Tracing` whose spans can be read."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        settings = Settings(tracing_endpoint="http://x", tracing_ratio=ratio, pod_name="pod-1")
        self.tracing = Tracing(settings, "deliver", self.exporter)

    def spans(self) -> list[ReadableSpan]:
        self.tracing._provider.force_flush()
        return list(self.exporter.get_finished_spans())


def _record(traceparent: str | None = None, partition: int = 3, offset: int = 7) -> SimpleNamespace:
    headers = ((("traceparent", traceparent.encode()),) if traceparent is not None else ()) + (
        ("x", b"\xff"),
    )
    return SimpleNamespace(topic="notifyd.messages", partition=partition, offset=offset, headers=headers)


def _ids(span: ReadableSpan) -> tuple[str, str | None]:
    """The trace, and the parent."""
    assert span.context is not None
    parent = span.parent
    return f"{span.context.trace_id:032x}", f"{parent.span_id:016x}" if parent is not None else None


def test_a_step_is_a_child_of_the_producer_s_span_and_says_where_the_record_was() -> None:
    traced, message_id = _Traced(), new_id()
    with traced.tracing.process(_record(TOLD), message_id, "notifyd-deliver"):
        pass
    [span] = traced.spans()
    assert _ids(span) == (TRACE, SPAN)
    assert (span.name, span.kind) == ("process notifyd.messages", SpanKind.CONSUMER)
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "notifyd.messages",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
        "messaging.message.id": message_id,
        "messaging.consumer.group.name": "notifyd-deliver",
    }
    assert span.resource.attributes["service.name"] == "notifyd-deliver"
    assert span.resource.attributes["service.instance.id"] == "pod-1"


def test_without_a_header_the_message_s_id_is_the_trace_for_every_step() -> None:
    one, other, message_id = _Traced(), _Traced(), new_id()
    with one.tracing.process(_record(), message_id, "g"):
        pass
    other.tracing.processed(_record(), message_id, "g", 1_000, **{"notifyd.connections": 2})
    wanted = (uuid.UUID(message_id).hex, None)
    assert [_ids(span) for span in (*one.spans(), *other.spans())] == [wanted, wanted]
    [span] = other.spans()
    assert span.start_time == 1_000
    assert (span.attributes or {})["notifyd.connections"] == 2


def test_two_messages_at_once_do_not_take_each_other_s_trace() -> None:
    traced, ids = _Traced(), [new_id(), new_id()]
    with traced.tracing.process(_record(), ids[0], "g"):
        traced.tracing.processed(_record(), ids[1], "g", 1)
    with traced.tracing._tracer.start_as_current_span("of its own"):
        pass
    traces = [_ids(span)[0] for span in traced.spans()]
    assert traces[:2] == [uuid.UUID(ids[1]).hex, uuid.UUID(ids[0]).hex]
    assert traces[2] not in traces[:2]


@pytest.mark.parametrize("broken", ["", "00-x", TOLD[:-1], TOLD + "-x", f"ff{TOLD[2:]}", TOLD.upper(),
                                    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"])  # fmt: skip
def test_a_broken_header_counts_as_none(broken: str) -> None:
    traced, message_id = _Traced(), new_id()
    with traced.tracing.process(_record(broken), message_id, "g"):
        pass
    assert [_ids(span) for span in traced.spans()] == [(uuid.UUID(message_id).hex, None)]


@given(st.text(max_size=70))
def test_no_header_raises(text: str) -> None:
    read_traceparent(text)


def test_a_header_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    found = read_traceparent(f"01{TOLD[2:]}-more")
    assert found is not None
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.is_sampled) == (TRACE, SPAN, True)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([("ce_id", b"1"), ("traceparent", TOLD.encode())], TOLD),
        ([("traceparent", f"{TOLD[:-2]}00".encode())], f"{TOLD[:-2]}00"),
        # What comes later is not ours to pass on, nor to store.
        ([("traceparent", f"01{TOLD[2:-2]}09-{{x}}".encode())], TOLD),
        ([("traceparent", b"broken"), ("traceparent", None)], None),
        ([], None),
    ],
    ids=["sampled", "not-sampled", "later-version", "broken", "none"],
)
def test_what_is_kept_of_a_record_s_trace_is_the_header_of_version_00(
    headers: list[tuple[str, Any]], kept: str | None
) -> None:
    assert traceparent_of(headers) == kept


def test_what_the_producer_does_not_sample_leaves_no_span_at_any_step() -> None:
    traced, message_id = _Traced(), new_id()
    with (
        traced.tracing.process(_record(NOT_SAMPLED), message_id, "g"),
        traced.tracing.attempt("webhook", message_id, 1),
    ):
        assert traced.tracing.exemplar_here() is None
    with traced.tracing.process_batch("t", "g", [(message_id, _record(NOT_SAMPLED))]):
        pass
    traced.tracing.processed(_record(NOT_SAMPLED), message_id, "g", 1)
    assert traced.spans() == []
    assert traced.tracing.exemplar(message_id) is None


def test_a_share_of_messages_is_drawn_by_id_and_alike_by_all() -> None:
    ids = [new_id() for _ in range(2000)]
    some, others = _Traced(0.25).tracing, _Traced(0.25).tracing
    drawn = [some.origin(one, ()).is_sampled for one in ids]
    assert drawn == [others.origin(one, ()).is_sampled for one in ids]
    # Six standard deviations: 2000 draws at a quarter.
    assert 380 < sum(drawn) < 620
    assert some.origin(ids[0], [("traceparent", TOLD.encode())]).is_sampled


def test_a_batch_has_a_span_of_its_own_that_is_linked_to_its_messages() -> None:
    traced, message_id = _Traced(), new_id()
    messages = [(new_id(), _record(TOLD)), (message_id, _record()), (new_id(), _record(NOT_SAMPLED))]
    with traced.tracing.process_batch("notifyd.messages", "notifyd-persist", messages):
        pass
    [span] = traced.spans()
    trace_id, parent = _ids(span)
    assert parent is None
    linked = [f"{link.context.trace_id:032x}" for link in span.links]
    assert linked == [TRACE, uuid.UUID(message_id).hex]
    assert trace_id not in linked
    assert (span.attributes or {})["messaging.batch.message_count"] == 3


def test_an_attempt_is_within_its_record_s_span() -> None:
    traced, message_id = _Traced(), new_id()
    with (
        traced.tracing.process(_record(), message_id, "g") as outer,
        traced.tracing.attempt("webhook", message_id, 2),
    ):
        assert traced.tracing.exemplar_here() == {"trace_id": uuid.UUID(message_id).hex}
    attempt, _ = traced.spans()
    assert _ids(attempt) == (uuid.UUID(message_id).hex, f"{outer.get_span_context().span_id:016x}")
    assert (attempt.name, attempt.kind) == ("deliver webhook", SpanKind.CLIENT)
    assert (attempt.attributes or {})["notifyd.attempt"] == 2


@pytest.mark.parametrize(("given_one", "trace_id"), [(TOLD, TRACE), (None, None), ("broken", None)])
def test_who_sends_passes_on_its_own_span(given_one: str | None, trace_id: str | None) -> None:
    traced, message_id = _Traced(), new_id()
    with traced.tracing.send("notifyd.messages", message_id, given_one) as told:
        pass
    [span] = traced.spans()
    assert (span.name, span.kind) == ("send notifyd.messages", SpanKind.PRODUCER)
    assert _ids(span) == (trace_id or uuid.UUID(message_id).hex, SPAN if trace_id else None)
    assert span.context is not None
    assert told == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_who_sends_passes_on_that_nothing_is_sampled() -> None:
    traced = _Traced()
    with traced.tracing.send("t", new_id(), NOT_SAMPLED) as told:
        assert told == NOT_SAMPLED
    assert traced.spans() == []


def test_a_program_s_own_span_is_found_and_none_outside_of_one() -> None:
    traced = _Traced()
    assert current_traceparent() is None
    with traced.tracing._tracer.start_as_current_span("request") as span:
        context = span.get_span_context()
        assert current_traceparent() == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def test_logs_within_a_span_carry_its_ids_and_others_none() -> None:
    traced, message_id = _Traced(), new_id()
    assert add_trace_ids(None, "", {"event": "x"}) == {"event": "x"}
    with traced.tracing.process(_record(), message_id, "g") as span:
        line = add_trace_ids(None, "", {"event": "x", "message_id": message_id})
    assert line == {
        "event": "x",
        "message_id": message_id,
        "trace_id": uuid.UUID(message_id).hex,
        "span_id": trace.format_span_id(span.get_span_context().span_id),
    }


@pytest.mark.parametrize("endpoint", [None, "http://collector:4318/v1/traces"])
def test_logs_are_only_asked_for_ids_where_tracing_is_on(endpoint: str | None) -> None:
    before = structlog.get_config()
    try:
        configure_logging(Settings(tracing_endpoint=endpoint))
        assert (add_trace_ids in structlog.get_config()["processors"]) is (endpoint is not None)
    finally:
        structlog.configure(**before)


def test_off_is_the_default() -> None:
    assert Tracing.of(Settings(), "ws") is None


def test_without_the_extra_the_fault_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"install `notifyd\[otel\]`"):
        Tracing.of(Settings(tracing_endpoint="http://x"), "ws")


def test_an_exemplar_stands_beside_the_latency_it_explains() -> None:
    from prometheus_client.openmetrics.exposition import generate_latest

    traced, message_id, metrics = _Traced(), new_id(), Metrics()
    traced.tracing.processed(_record(), message_id, "g", 1)
    metrics.ingest_to_push.observe(0.02, traced.tracing.exemplar(message_id))
    text: Any = generate_latest(metrics.registry).decode()
    [line] = [line for line in text.splitlines() if "# {" in line]
    assert line.startswith('notifyd_ingest_to_push_seconds_bucket{le="0.025"} 1.0 # {trace_id="')
    assert uuid.UUID(message_id).hex in line


def test_a_collector_that_hangs_keeps_no_process_from_its_end() -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    class Hanging(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            is_asked.set()
            may_answer.wait()
            return super().export(spans)

    exporter = Hanging()
    tracing = Tracing(Settings(tracing_endpoint="http://x"), "deliver", exporter)
    with tracing.send("notifyd.messages", new_id(), TOLD):
        pass
    # Closing the loop waits for the threads of its pool; a program, for all that are no daemons.
    asyncio.run(tracing.stop(0.05))
    assert is_asked.wait(5)
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    assert exporter.get_finished_spans() == ()
    may_answer.set()


def test_an_end_sends_what_is_left() -> None:
    traced = _Traced()
    with traced.tracing.send("notifyd.messages", new_id(), TOLD):
        pass
    asyncio.run(traced.tracing.stop(30))
    assert len(traced.exporter.get_finished_spans()) == 1
