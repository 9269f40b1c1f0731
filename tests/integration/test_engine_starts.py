"""Where an engine begins to read: a place that is there is taken, whatever end the broker tells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from faust.types import TP

from notifyd.settings import Settings
from notifyd.stream import consumer
from notifyd.stream.start import StartPlan
from tests.fixtures.engines import Member, make_topic, new_group, produce
from tests.fixtures.waiting import eventually


async def test_a_place_after_a_batch_of_many_records_is_not_taken_for_lost(settings: Settings) -> None:
    # After such a batch the embedded broker tells the end of its first record.
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, [b"%d" % number for number in range(200)], partition=0)

    async def places(tps: object) -> dict[object, int]:
        return dict.fromkeys(tps, 200)  # type: ignore[attr-defined]

    member = await Member(settings, new_group(), [topic], options={"start": StartPlan(places=places)}).start()  # type: ignore[arg-type]
    await eventually(lambda: member.app.is_joined or member.failures, what="the partition to flow")
    await produce(settings, topic, [b"next"], partition=0)
    await eventually(lambda: member.seen or member.failures, what="the next record")
    await member.stop()
    assert not member.failures
    assert list(member.seen) == [b"next"]


async def test_a_rebalance_while_the_places_are_looked_for_begins_the_search_anew(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=2)
    await produce(settings, topic, [b"%d" % number for number in range(100)])
    asked = 0
    cancelled: list[int] = []

    async def places(tps: Sequence[TP]) -> dict[TP, int]:
        nonlocal asked
        asked += 1
        number = asked
        if number < 3:  # as a database that does not answer
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return dict.fromkeys(tps, 0)

    member = await Member(settings, new_group(), [topic], options={"start": StartPlan(places=places)}).start()
    coordinator = await eventually(lambda: asked == 1 and member.app.engine_consumer.client._coordinator)
    for number in (2, 3):
        coordinator.request_rejoin()
        await eventually(lambda number=number: asked == number, what="the next search")  # type: ignore[misc]
    await eventually(lambda: sum(member.seen.values()) == 100, what="all records")
    await member.stop()
    assert cancelled == [1, 2]
    assert set(member.seen.values()) == {1}
    assert not member.failures


@pytest.mark.needs_kafka("the embedded broker adds no partitions")
@pytest.mark.parametrize("is_live_only", [False, True])
async def test_a_partition_that_is_added_is_read_from_its_first_record(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, is_live_only: bool
) -> None:
    monkeypatch.setattr(consumer, "_METADATA_AGE_MS", 500)
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, [b"old"])
    plan = StartPlan(back_s=0.0 if is_live_only else None)
    member = await Member(
        settings, new_group(), [topic], options={"start": plan, "commits": not is_live_only}
    ).start()
    await eventually(lambda: member.app.is_joined, what="the group")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(total_count=2)})
    finally:
        await admin.close()
    await produce(settings, topic, [b"new"], partition=1)
    await eventually(lambda: b"new" in member.seen, what="the record of the new partition")
    await member.stop()
    assert (b"old" in member.seen) is not is_live_only
