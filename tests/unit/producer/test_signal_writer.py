"""Signals share records for a moment, keep their order, and hold up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from notifyd.errors import PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from notifyd.stream.producer import OutRecord, RecordPlace
from notifyd.stream.signals import MAX_POSTED, SignalWriter
from notifyd.stream.topics import Topics
from tests.fixtures.waiting import eventually


class FakeProducer:
    """Records what is sent; `gate` holds it back, `error` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[OutRecord] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def send_held(self, records: Sequence[OutRecord]) -> list[RecordPlace]:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.sent += records
        return []

    @property
    def said(self) -> list[tuple[str, str, str, list[str]]]:
        read = [(record.key.decode(), json.loads(record.value)) for record in self.sent]
        return [(user, one["set"], one["by"], one["ids"]) for user, one in read]


@pytest.fixture
async def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def writer(producer: FakeProducer) -> SignalWriter:
    settings = load_settings({}, events_linger_s=0.01)
    return SignalWriter(producer, Topics.of(settings), settings, Metrics())  # type: ignore[arg-type]


def dropped(writer: SignalWriter, reason: str) -> float:
    name = "notifyd_ws_signals_dropped_total"
    return writer._metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0


async def test_what_a_device_says_within_a_moment_is_one_record(writer, producer):
    writer.post("alice", "read", ["1", "2"], "phone")
    writer.post("bob", "read", ["1"], "desk")
    writer.post("alice", "read", ["2", "3"], "phone")
    writer.post("alice", "read", ["1"], "laptop")
    writer.post("alice", "seen", ["1"], "phone")
    assert producer.sent == []
    await writer.stop()
    assert producer.said == [
        ("alice", "read", "phone", ["1", "2", "3"]),
        ("bob", "read", "desk", ["1"]),
        ("alice", "read", "laptop", ["1"]),
        ("alice", "seen", "phone", ["1"]),
    ]
    assert {record.topic for record in producer.sent} == {"notifyd.signals"}


async def test_a_record_has_no_more_ids_than_a_reader_takes(writer, producer):
    ids = [f"{n}" for n in range(1201)]
    writer.post("alice", "read", ids, "phone")
    await writer.stop()
    assert [len(said[3]) for said in producer.said] == [500, 500, 201]
    assert [one for said in producer.said for one in said[3]] == ids


async def test_it_goes_without_a_stop_too_and_in_order_while_one_is_under_way(writer, producer):
    producer.gate.clear()
    writer.post("alice", "read", ["1"], "phone")
    await eventually(lambda: writer._task is not None)
    await asyncio.sleep(0)
    writer.post("alice", "read", ["2"], "phone")
    writer.post("alice", "read", ["3"], "phone")
    producer.gate.set()
    await eventually(lambda: len(producer.sent) == 2)
    assert [said[3] for said in producer.said] == [["1"], ["2", "3"]]
    await writer.stop()


async def test_a_broker_that_is_away_holds_up_nobody_and_costs_a_bounded_number(writer, producer):
    producer.gate.clear()
    for n in range(MAX_POSTED // 100 + 5):
        writer.post(f"user-{n}", "read", [f"{n}-{i}" for i in range(100)], "s")
    assert dropped(writer, "buffer_full") == 500
    producer.gate.set()
    await writer.stop()
    assert sum(len(said[3]) for said in producer.said) == MAX_POSTED
    writer.post("alice", "read", ["late"], "s")
    assert dropped(writer, "stopped") == 1


async def test_repeats_take_no_room(writer, producer):
    for _ in range(MAX_POSTED):
        writer.post("alice", "read", ["1"], "phone")
    assert writer._posted == 1
    await writer.stop()
    assert writer._posted == 0


async def test_what_no_waiting_mends_is_counted_and_the_next_goes_on(writer, producer):
    producer.error = PermanentError("gone", reason="topic_missing")
    writer.post("alice", "read", ["1", "2"], "phone")
    await eventually(lambda: dropped(writer, "topic_missing"))
    assert dropped(writer, "topic_missing") == 2
    producer.error = None
    writer.post("alice", "read", ["3"], "phone")
    await writer.stop()
    assert [said[3] for said in producer.said] == [["3"]]


async def test_a_stop_that_is_given_up_leaves_no_task_behind(writer, producer):
    producer.gate.clear()
    writer.post("alice", "read", ["1"], "phone")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await writer.stop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert writer._task is None
