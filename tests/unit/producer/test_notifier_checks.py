"""What the Notifier decides before anything goes to a broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notifyd.errors import NotifydError, TransientError
from notifyd.producer import InvalidEnvelope, Notifier, Outgoing
from notifyd.settings import load_settings

GOOD = {
    "from": "orders",
    "UUID": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
    "content": {"version": 1.1, "type": "order.shipped"},
    "toUserIds": ["alice"],
    "createBy": "orders-svc",
    "createDateTime": "2026-11-23T10:00:00Z",
}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Failures:
    def __init__(self) -> None:
        self.seen: list[tuple[Outgoing, NotifydError]] = []

    def __call__(self, message: Outgoing, error: NotifydError) -> None:
        self.seen.append((message, error))


@pytest.fixture
async def failures() -> Failures:
    return Failures()


@pytest.fixture
async def notifier(failures: Failures) -> Notifier:
    # Dates are judged against today, and this envelope has a day that does not move.
    settings = load_settings({}, topic_retention_s=1e9, message_max_ahead_s=1e9)
    return Notifier(settings, sender="orders", on_failed=failures)


async def test_an_invalid_envelope_is_refused_with_every_fault_and_told_once(
    notifier: Notifier, failures: Failures
) -> None:
    with pytest.raises(InvalidEnvelope) as caught:
        await notifier.send(envelope={**GOOD, "toUserIds": [], "createDateTime": 7})
    assert {fault.field for fault in caught.value.faults} == {"toUserIds", "createDateTime"}
    assert "toUserIds" in str(caught.value)
    assert "createDateTime" in str(caught.value)
    assert [(message.id, error) for message, error in failures.seen] == [(GOOD["UUID"], caught.value)]


async def test_faults_of_the_content_are_found_too(notifier: Notifier) -> None:
    with pytest.raises(InvalidEnvelope) as caught:
        await notifier.send(envelope={**GOOD, "content": {"version": 1.1, "ttl": "soon"}})
    assert caught.value.reason == "bad_content"


async def test_bytes_that_are_no_json_are_told_without_an_id(notifier: Notifier, failures: Failures) -> None:
    with pytest.raises(InvalidEnvelope):
        await notifier.send(envelope=b"\xff{")
    assert failures.seen[0][0] == Outgoing("", b"\xff{")


async def test_a_notifier_that_is_not_open_says_so_and_tells_the_callback(
    notifier: Notifier, failures: Failures
) -> None:
    with pytest.raises(TransientError) as caught:
        await notifier.send(envelope=GOOD)
    assert caught.value.reason == "producer_stopped"
    assert failures.seen == [
        (Outgoing(GOOD["UUID"], json.dumps(GOOD, separators=(",", ":")).encode(), GOOD["UUID"].encode()),
         caught.value)
    ]  # fmt: skip


async def test_a_callback_may_be_a_coroutine_function_and_may_fail(notifier: Notifier) -> None:
    seen = []

    async def on_failed(message: Outgoing, error: NotifydError) -> None:
        seen.append(message.id)
        raise RuntimeError("the caller's own")

    notifier._on_failed = on_failed
    with pytest.raises(TransientError):
        await notifier.send(envelope=GOOD)
    assert seen == [GOOD["UUID"]]


@pytest.mark.parametrize("arguments", [{}, {"envelope": GOOD, "to": ["a"]}])
async def test_either_an_envelope_or_its_parts(notifier: Notifier, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="either"):
        await notifier.send(**arguments)


def prepared(notifier: Notifier, key: str | None = None, traceparent: str | None = None) -> Any:
    return notifier._prepare(GOOD, key, traceparent, {})[1]


async def test_the_record_carries_cloudevents_headers_and_the_id_as_key(notifier: Notifier) -> None:
    record = prepared(notifier)
    assert record.topic == "notifyd.messages"
    assert record.key == GOOD["UUID"].encode()
    assert dict(record.headers) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": GOOD["UUID"].encode(),
        "ce_type": b"order.shipped",
        "ce_source": b"orders",
    }


async def test_the_key_is_the_callers_where_order_matters(notifier: Notifier) -> None:
    assert prepared(notifier, key="order-7").key == b"order-7"


async def test_a_trace_context_goes_along_and_a_broken_one_costs_no_message(notifier: Notifier) -> None:
    assert dict(prepared(notifier, traceparent=TRACE).headers)["traceparent"] == TRACE.encode()
    assert "traceparent" not in dict(prepared(notifier, traceparent="nonsense").headers)


async def test_given_bytes_are_sent_as_they_are(notifier: Notifier) -> None:
    raw = json.dumps(GOOD, indent=2).encode()
    assert notifier._prepare(raw, None, None, {})[1].value == raw


async def test_the_sender_is_the_notifiers_unless_the_message_names_one(notifier: Notifier) -> None:
    def sender(**parts: Any) -> str:
        return json.loads(notifier._prepare(None, None, None, {"to": "a", "title": "x", **parts})[1].value)[
            "from"
        ]

    assert sender() == "orders"
    assert sender(sender="billing") == "billing"


def test_fields_override_settings_by_name() -> None:
    import asyncio

    async def made() -> Notifier:
        return Notifier(load_settings({}), producer_timeout_s=3, bootstrap_servers="x:1")

    notifier = asyncio.run(made())
    assert notifier._settings.producer_timeout_s == 3
    assert notifier._settings.kafka_bootstrap_servers == "x:1"
