"""Events share records for a moment, keep their order, and never block who may lose them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from notifyd.delivery.event import Event, decode_events
from notifyd.errors import TransientError
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from notifyd.stream.events import EventWriter, partition_of
from notifyd.stream.producer import OutRecord, RecordPlace
from notifyd.stream.topics import Topics


class FakeProducer:
    """Records what is sent; `gate` holds it back, `error` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[OutRecord] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def partitions(self, topic: str) -> int:
        return 4

    async def send_held(self, records: Sequence[OutRecord]) -> list[RecordPlace]:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.sent += records
        return [RecordPlace(record.topic, record.partition or 0, 0, 0) for record in records]


@pytest.fixture
async def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def writer(producer: FakeProducer) -> AsyncIterator[EventWriter]:
    settings = load_settings({}, events_linger_s=0.01)
    found = EventWriter(producer, Topics.of(settings), settings, Metrics(), role="ws")  # type: ignore[arg-type]
    await found.start()
    yield found
    await found.stop()


def event(message_id: str, stage: str = "sent", at: int = 0) -> Event:
    return Event(
        id=message_id, day="2026-11-23", digest="d", user="u", channel="ws", stage=stage, at=at, pod="p"
    )


def stages_in(producer: FakeProducer, message_id: str) -> list[int]:
    found = [item for record in producer.sent for item in decode_events(record.value or b"")]
    return [item.at for item in found if item.id == message_id]


async def test_events_written_together_share_one_record_a_partition(
    writer: EventWriter, producer: FakeProducer
) -> None:
    ids = [f"id-{number}" for number in range(40)]
    await asyncio.gather(*(writer.write([event(name)]) for name in ids))
    assert len(producer.sent) == len({partition_of(name, 4) for name in ids}) == 4
    for record in producer.sent:
        for item in decode_events(record.value or b""):
            assert record.partition == partition_of(item.id, 4)


async def test_a_write_returns_only_once_the_broker_has_it(
    writer: EventWriter, producer: FakeProducer
) -> None:
    producer.gate.clear()
    task = asyncio.create_task(writer.write([event("a")]))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    producer.gate.set()
    await task
    assert len(producer.sent) == 1


async def test_events_of_a_message_keep_their_order_over_many_records(
    writer: EventWriter, producer: FakeProducer
) -> None:
    producer.gate.clear()
    tasks = []
    for start in range(0, 3000, 100):
        for number in range(start, start + 100, 2):
            writer.post_alike(event("a", at=number), ["alice"])
            tasks.append(asyncio.create_task(writer.write([event("a", at=number + 1)])))
            await asyncio.sleep(0)
    producer.gate.set()
    await writer.stop()
    await asyncio.gather(*tasks)
    assert len(producer.sent) >= 6
    assert stages_in(producer, "a") == list(range(3000))


async def test_events_that_come_while_a_record_is_under_way_share_the_next_one(
    writer: EventWriter, producer: FakeProducer
) -> None:
    """Else a broker that takes longer than the linger falls behind for ever, a small record at a time."""
    producer.gate.clear()
    writes = []
    for number in range(10):
        writes.append(asyncio.create_task(writer.write([event("a", at=number)])))
        await asyncio.sleep(0.03)  # several times the linger
    producer.gate.set()
    await asyncio.gather(*writes)
    assert [len(decode_events(record.value or b"")) for record in producer.sent] == [1, 9]
    assert stages_in(producer, "a") == list(range(10))
    await writer.write([event("a", at=10)])
    assert stages_in(producer, "a")[-1] == 10


async def test_who_is_cancelled_does_not_take_the_record_from_the_others(
    writer: EventWriter, producer: FakeProducer
) -> None:
    producer.gate.clear()
    first = asyncio.create_task(writer.write([event("a", at=1)]))
    second = asyncio.create_task(writer.write([event("a", at=2)]))
    await asyncio.sleep(0.03)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    producer.gate.set()
    await second
    assert stages_in(producer, "a") == [1, 2]


async def test_post_never_blocks_and_drops_above_its_bound(producer: FakeProducer) -> None:
    settings, metrics = load_settings({}), Metrics()
    writer = EventWriter(producer, Topics.of(settings), settings, metrics, role="ws")  # type: ignore[arg-type]
    await writer.start()
    producer.gate.clear()
    for number in range(10):
        writer.post_alike(event(f"m{number}"), [f"user-{user}" for user in range(10_001)])
    dropped = metrics.registry.get_sample_value("notifyd_events_dropped_total", {"reason": "buffer_full"})
    assert dropped == 10
    producer.gate.set()
    await writer.stop()
    assert sum(len(decode_events(record.value or b"")) for record in producer.sent) == 100_000
    writer.post_alike(event("late"), ["alice"])
    assert metrics.registry.get_sample_value("notifyd_events_dropped_total", {"reason": "stopped"}) == 1


async def test_a_failure_reaches_all_who_wait_and_the_next_record_goes_on(
    writer: EventWriter, producer: FakeProducer
) -> None:
    producer.error = TransientError("stopped", reason="producer_stopped")
    outcomes = await asyncio.gather(
        writer.write([event("a")]), writer.write([event("a")]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [TransientError, TransientError]
    producer.error = None
    await writer.write([event("a", at=5)])
    assert stages_in(producer, "a") == [5]


def test_the_partition_depends_on_the_id_alone() -> None:
    assert partition_of("019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", 12) == 6
    assert {partition_of(f"id-{number}", 12) for number in range(200)} == set(range(12))
