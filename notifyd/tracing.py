"""Traces of messages by OpenTelemetry, where the extra `otel` is installed and an endpoint is set.

A message's trace is the one that its producer named in the header `traceparent`; without one its UUID is
the trace id, so that every role, retry and resend finds the same trace by the message alone. Spans follow
the messaging conventions: a parent for one message, links for a batch. Off, nothing of this is imported.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from notifyd.errors import ConfigError
from notifyd.settings import Settings
from notifyd.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanKind

#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED: Final = 1
#: Of a UUID the bits before these are partly fixed (variant, version, time): not what to draw lots by.
_LOT_BITS: Final = 62
#: OpenTelemetry's own limit of a span.
_MAX_LINKS: Final = 128
#: Messages whose trace is known by id, for exemplars: those of the last moments.
_RECENT: Final = 1_000

Headers = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message's trace comes from. `span_id`: the producer's span; 0: the trace begins with us."""

    trace_id: int
    span_id: int
    is_sampled: bool


class Tracing:
    """Makes the spans of one process. Its methods take a message's id and the record's headers."""

    def __init__(self, settings: Settings, role: str, exporter: SpanExporter | None = None) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._api = trace
        self._ids = _ids_of(RandomIdGenerator)
        self._ratio = settings.tracing_ratio
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": f"notifyd-{role}",
                    "service.version": VERSION,
                    "service.instance.id": settings.pod_name,
                }
            ),
            # Whether to record is decided here, before a span is made.
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(settings)))
        self._tracer = self._provider.get_tracer("notifyd", VERSION)
        self._recent: OrderedDict[str, str] = OrderedDict()

    @staticmethod
    def of(settings: Settings, role: str) -> Tracing | None:
        """Make it, or nothing where no endpoint is set; `ConfigError` without the extra."""
        if settings.tracing_endpoint is None:
            return None
        try:
            return Tracing(settings, role)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"NOTIFYD_TRACING_ENDPOINT is set, and {error.name} is not installed",
                reason="no_tracing",
                remedy="install `notifyd[otel]`, or unset it",
            ) from None

    async def stop(self, limit_s: float) -> None:
        """Send what is left; what a collector that hangs has not taken by then is given up."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        # No thread of the loop's pool: the loop, and the interpreter, would wait for its end.
        threading.Thread(target=shut_down, name="tracing-end", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await ended.wait()

    # One message

    def origin(self, message_id: str, headers: Headers) -> Origin:
        """Say which trace a message belongs to."""
        if (found := _named(headers)) is not None:
            return found
        trace_id = uuid.UUID(message_id).int
        return Origin(trace_id, 0, self._is_drawn(trace_id))

    def _is_drawn(self, trace_id: int) -> bool:
        return (trace_id & ((1 << _LOT_BITS) - 1)) < self._ratio * (1 << _LOT_BITS)

    @contextmanager
    def send(self, topic: str, message_id: str, traceparent: str | None) -> Iterator[str | None]:
        """The span of writing a message; yields the `traceparent` to write with it."""
        headers = [("traceparent", traceparent.encode("latin-1", "replace"))] if traceparent else []
        origin = self.origin(message_id, headers)
        with self._span("send", self._api.SpanKind.PRODUCER, topic, message_id, origin) as span:
            context = span.get_span_context()
            told = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            yield told if context.is_valid else traceparent

    @contextmanager
    def process(self, record: Any, message_id: str, group: str) -> Iterator[Span]:
        """The span of working on one record; what is begun within belongs to it."""
        origin = self.origin(message_id, record.headers)
        attributes = {**_place_of(record), "messaging.consumer.group.name": group}
        consumer = self._api.SpanKind.CONSUMER
        with self._span("process", consumer, record.topic, message_id, origin, attributes) as span:
            yield span

    def processed(self, record: Any, message_id: str, group: str, began_ns: int, **facts: Any) -> None:
        """Note one record that was worked on since `began_ns` (ns since 1970)."""
        origin = self.origin(message_id, record.headers)
        if not origin.is_sampled:
            return
        self._remember(message_id, origin)
        attributes = {**_place_of(record), "messaging.consumer.group.name": group, **facts}
        self._start(
            "process", self._api.SpanKind.CONSUMER, record.topic, message_id, origin, attributes, began_ns
        ).end()

    @contextmanager
    def attempt(self, channel: str, message_id: str, attempt: int) -> Iterator[Span]:
        """The span of one attempt to deliver, within that of its record."""
        with self._tracer.start_as_current_span(
            f"deliver {channel}",
            kind=self._api.SpanKind.CLIENT,
            attributes={
                "notifyd.channel": channel,
                "notifyd.attempt": attempt,
                "messaging.message.id": message_id,
            },
        ) as span:
            yield span

    def exemplar(self, message_id: str) -> dict[str, str] | None:
        """What leads from a histogram to the trace of a message that was sampled just now."""
        trace_id = self._recent.get(message_id)
        return {"trace_id": trace_id} if trace_id is not None else None

    def exemplar_here(self) -> dict[str, str] | None:
        """As `exemplar`, of the span that is current."""
        context = self._api.get_current_span().get_span_context()
        is_sampled = context.is_valid and context.trace_flags & _SAMPLED
        return {"trace_id": f"{context.trace_id:032x}"} if is_sampled else None

    # Many messages

    @contextmanager
    def process_batch(self, topic: str, group: str, messages: Sequence[tuple[str, Any]]) -> Iterator[None]:
        """The span of working on records together, (message id, record) each: linked to their traces."""
        origins = [self.origin(message_id, record.headers) for message_id, record in messages]
        sampled = [origin for origin in origins if origin.is_sampled]
        if not sampled:
            yield
            return
        links = [self._api.Link(self._context_of(origin)) for origin in sampled[:_MAX_LINKS]]
        with self._tracer.start_as_current_span(
            f"process {topic}",
            context=_nowhere(),
            kind=self._api.SpanKind.CONSUMER,
            links=links,
            attributes={
                **_MESSAGING,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(messages[0][1].partition),
                "messaging.consumer.group.name": group,
                "messaging.batch.message_count": len(messages),
            },
        ):
            yield

    # Spans

    @contextmanager
    def _span(  # noqa: PLR0917
        self,
        operation: str,
        kind: SpanKind,
        topic: str,
        message_id: str,
        origin: Origin,
        attributes: Mapping[str, Any] | None = None,
    ) -> Iterator[Span]:
        if not origin.is_sampled:
            # Current all the same, so that nothing within begins a trace of its own.
            span: Span = self._api.NonRecordingSpan(self._context_of(origin))
        else:
            self._remember(message_id, origin)
            span = self._start(operation, kind, topic, message_id, origin, attributes or {})
        with self._api.use_span(span, end_on_exit=True):
            yield span

    def _start(  # noqa: PLR0917
        self,
        operation: str,
        kind: SpanKind,
        topic: str,
        message_id: str,
        origin: Origin,
        attributes: Mapping[str, Any],
        began_ns: int | None = None,
    ) -> Span:
        parent = _nowhere()
        if origin.span_id:
            remote = self._api.NonRecordingSpan(self._context_of(origin))
            parent = self._api.set_span_in_context(remote, parent)
        else:
            self._ids.next_trace_id = origin.trace_id
        return self._tracer.start_span(
            f"{operation} {topic}",
            context=parent,
            kind=kind,
            start_time=began_ns,
            attributes={
                **_MESSAGING,
                "messaging.operation.name": operation,
                "messaging.operation.type": operation,
                "messaging.destination.name": topic,
                "messaging.message.id": message_id,
                **attributes,
            },
        )

    def _context_of(self, origin: Origin) -> Any:
        # A link must name a span; of a trace that begins with us it names the one that no producer made.
        span_id = origin.span_id or (origin.trace_id & ((1 << 64) - 1)) or 1
        flags = self._api.TraceFlags(_SAMPLED if origin.is_sampled else 0)
        return self._api.SpanContext(origin.trace_id, span_id, is_remote=True, trace_flags=flags)

    def _remember(self, message_id: str, origin: Origin) -> None:
        self._recent[message_id] = f"{origin.trace_id:032x}"
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)


_MESSAGING: Final = {"messaging.system": "kafka"}


def read_traceparent(text: str) -> Origin | None:
    """Read the header; None for a broken one, which counts as none: tracing must never cost a message."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (text.startswith("00") and len(text) != len("00--") + 32 + 16 + 3):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return Origin(trace_id, span_id, bool(flags & _SAMPLED)) if trace_id and span_id else None


def traceparent_of(headers: Headers) -> str | None:
    """Return the trace that the producer of a record named, in version 00 of the header; None without one."""
    found = _named(headers)
    if found is None:
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.is_sampled:02x}"


def _named(headers: Headers) -> Origin | None:
    for name, value in headers:
        # Kafka's headers may have no value.
        if name == "traceparent" and value:
            found = read_traceparent(value.decode("latin-1"))
            if found is not None:
                return found
    return None


def current_traceparent() -> str | None:
    """The trace context of whoever calls, where their program uses OpenTelemetry; costs nothing elsewhere."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def add_trace_ids(_: Any, __: str, event: Any) -> Any:
    """A processor of logs: the ids of the current span beside those of the message."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _place_of(record: Any) -> dict[str, Any]:
    return {
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
    }


def _nowhere() -> Any:
    from opentelemetry.context import Context

    return Context()


def _ids_of(kind: type[Any]) -> Any:
    class MessageIds(kind):  # type: ignore[misc]
        """Random ids, but for the one trace id that is asked for next."""

        next_trace_id = 0

        def generate_trace_id(self) -> int:
            trace_id, self.next_trace_id = self.next_trace_id, 0
            return trace_id or int(super().generate_trace_id())

        def is_trace_id_random(self) -> bool:
            """A UUID need not be, so nobody downstream may draw lots by it."""
            return False

    return MessageIds()


def _exporter(settings: Settings) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=settings.tracing_endpoint)
