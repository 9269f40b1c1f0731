"""The engine as a member of a group that does not behave: thrown out, held up, with a broker that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.protocol.group import LeaveGroupRequest

from notifyd.dev.kafka import LocalKafka
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.start import StartPlan
from tests.fixtures.engines import Member, committed, ends, make_topic, new_group, produce
from tests.fixtures.kafka import settings_for
from tests.fixtures.waiting import eventually


def values(count: int) -> list[bytes]:
    return [f"v{number}".encode() for number in range(count)]


async def throw_out(member: Member) -> None:
    """Let the group think that `member` has left, as after a session timeout."""
    consumer = member.app.engine_consumer
    other = AIOKafkaConsumer(bootstrap_servers=member.settings.kafka_bootstrap_servers)
    await other.start()
    try:
        coordinator = consumer.client._coordinator
        request = LeaveGroupRequest(member.group, coordinator.member_id)
        await other._client.send(coordinator.coordinator_id, request)
    finally:
        await other.stop()


async def test_a_member_that_was_thrown_out_cancels_its_work_and_commits_nothing(settings: Settings) -> None:
    topic = await make_topic(settings, "groups", partitions=1)
    await produce(settings, topic, values(10))
    begun: list[int] = []
    cancelled: list[int] = []
    late: list[Batch] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        if len(begun) > 10:
            return
        late.append(batch)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cancelled.append(record.offset)
            raise

    # A drain would hold the rebalance for as long as the test may take.
    patient = settings.model_copy(
        update={"drain_s": 100.0, "grace_s": 120.0, "kafka_rebalance_timeout_s": 120.0}
    )
    member = await Member(patient, new_group(), [topic], work=work).start()
    await eventually(lambda: len(begun) == 10, what="ten records at work")
    await throw_out(member)
    await eventually(lambda: len(cancelled) == 10, what="the work to be cancelled")
    for batch in late:
        batch.ack_all()  # late acks: they must not reach the next life of the partition
    await eventually(lambda: sum(member.seen.values()) == 10, what="the same records again")
    assert sorted(begun) == sorted([*range(10)] * 2)
    await member.stop()
    assert await committed(settings, member.group, topic, 1) == [10]
    assert not member.failures


class Slow(ConsumerRebalanceListener):  # type: ignore[misc]
    """Holds a rebalance up until it is released."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.release = asyncio.Event()
        self.assigned: set[Any] = set()

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        if revoked:
            self.is_asked.set()
            await self.release.wait()

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.assigned = set(assigned)


@pytest.mark.needs_kafka("the embedded broker holds no member up for another")
async def test_a_member_that_no_partition_is_left_for_joins_and_polls_on(settings: Settings) -> None:
    topic = await make_topic(settings, "groups", partitions=1)
    group = new_group()
    first = await Member(settings, group, [topic]).start()
    await eventually(lambda: len(first.app.engine_consumer.flows) == 1, what="the partition")
    surge = await Member(settings, group, [topic]).start()
    await eventually(lambda: surge.app.is_joined and first.app.is_joined, what="both to be in the group")
    idle = next(one for one in (first, surge) if not one.app.engine_consumer.flows)
    joined_at = time.monotonic()
    await eventually(
        lambda: idle.app.is_joined and (idle.app.polled_at or 0) > joined_at,
        what="another poll of the idle one",
    )
    await produce(settings, topic, values(10))
    await eventually(lambda: sum((first.seen + surge.seen).values()) == 10, what="all records")
    assert not idle.seen
    await asyncio.gather(first.stop(), surge.stop())


async def test_a_stop_does_not_wait_for_a_rebalance_that_another_member_holds_up(settings: Settings) -> None:
    topic = await make_topic(settings, "groups")
    await produce(settings, topic, values(50))
    member = await Member(settings, new_group(), [topic]).start()
    await eventually(lambda: sum(member.seen.values()) == 50, what="all records")
    slow = Slow()
    other = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        group_id=member.group,
        enable_auto_commit=False,
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
        session_timeout_ms=int(settings.kafka_session_timeout_s * 1000),
        heartbeat_interval_ms=500,
    )
    await other.start()
    try:
        other.subscribe([topic], listener=slow)
        await eventually(lambda: len(slow.assigned) == 2, what="the other member to have its share")
        member.app.engine_consumer.client._coordinator.request_rejoin()
        await asyncio.wait_for(slow.is_asked.wait(), 20)
        await eventually(lambda: not member.app.engine_consumer.flows, what="ours to be given back")
        # Nor is it less ready for that: so would be all members at once.
        assert (member.app.is_joined, member.app.has_settled) == (False, True)
        began = time.monotonic()
        await asyncio.wait_for(member.stop(), settings.grace_s)
        assert time.monotonic() - began < settings.grace_s
        slow.release.set()
        # We have told the group: it need not wait for our session to end.
        await eventually(lambda: len(slow.assigned) == 4, what="the rest to be the other's", timeout_s=5)
    finally:
        slow.release.set()
        await other.stop()
    assert await committed(settings, member.group, topic) == await ends(settings, topic)


async def test_a_stop_waits_for_the_drain_that_a_rebalance_began(settings: Settings) -> None:
    topic = await make_topic(settings, "groups", partitions=1)
    await produce(settings, topic, values(10))
    gate = asyncio.Event()
    begun: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        await gate.wait()

    member = await Member(settings, new_group(), [topic], work=work).start()
    await eventually(lambda: len(begun) == 10, what="ten records at work")
    consumer = member.app.engine_consumer
    consumer.client._coordinator.request_rejoin()
    await eventually(lambda: not consumer.flows, what="the rebalance to take the partition back")
    stopping = asyncio.create_task(member.stop())
    await asyncio.sleep(0.3)
    assert not stopping.done()
    gate.set()
    await asyncio.wait_for(stopping, settings.grace_s)
    assert await committed(settings, member.group, topic, 1) == [10]


async def test_two_rebalances_in_quick_succession_lose_and_repeat_nothing(settings: Settings) -> None:
    topic = await make_topic(settings, "groups")
    member = await Member(settings, new_group(), [topic]).start()
    await eventually(lambda: member.app.is_joined, what="the group")
    coordinator = member.app.engine_consumer.client._coordinator
    for _ in range(6):
        await produce(settings, topic, values(100))
        coordinator.request_rejoin()
        await eventually(lambda: not member.app.engine_consumer.flows, what="a rebalance", every_s=0)
        coordinator.request_rejoin()
    await eventually(lambda: sum(member.seen.values()) >= 600, what="all records")
    await member.stop()
    assert set(member.seen.values()) == {6}
    assert await committed(settings, member.group, topic) == await ends(settings, topic)


@pytest.mark.needs_kafka("the embedded broker loses everything when it is killed")
async def test_a_stop_ends_in_time_though_the_broker_hangs(own_kafka: LocalKafka, topic_prefix: str) -> None:
    settings = settings_for(own_kafka.bootstrap_servers, is_embedded=False, topic_prefix=topic_prefix)
    topic = await make_topic(settings, "groups", partitions=1)
    await produce(settings, topic, values(10))
    gate = asyncio.Event()
    begun: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        await gate.wait()

    member = await Member(settings, new_group(), [topic], work=work).start()
    await eventually(lambda: len(begun) == 10, what="ten records at work")
    own_kafka.pause()
    try:
        gate.set()
        await asyncio.wait_for(member.stop(), settings.grace_s)
    finally:
        own_kafka.resume()
    assert sum(member.seen.values()) == 10


async def test_a_member_that_never_started_stops(settings: Settings) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    member = Member(away, new_group(), ["none"])
    starting = asyncio.create_task(member.start())
    await eventually(lambda: hasattr(member, "app") and member.app._consumer, what="an attempt to connect")
    starting.cancel()
    await asyncio.wait({starting})
    await asyncio.wait_for(member.stop(), settings.grace_s)
    assert not member.failures


async def test_a_live_only_role_loses_nothing_that_was_read_and_not_done_at_a_rebalance(
    settings: Settings,
) -> None:
    topic = await make_topic(settings, "groups", partitions=1)
    live = {"start": StartPlan(back_s=0.0), "commits": False}
    gate = asyncio.Event()
    begun: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        await gate.wait()

    short = settings.model_copy(update={"drain_s": 0.2})
    member = await Member(short, new_group(), [topic], work=work, concurrency=10, options=live).start()
    await eventually(lambda: member.app.is_joined, what="the group")
    await produce(settings, topic, values(300))
    await eventually(lambda: len(begun) == 10, what="ten at work, and more in line")
    member.app.engine_consumer.client._coordinator.request_rejoin()
    await eventually(lambda: len(begun) > 10, what="the next life of the partition")
    gate.set()
    await eventually(lambda: len(member.seen) == 300, what="every record")
    await member.stop()
