"""Records that the broker has no more, at work: retention overtook the role, a topic was made anew."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from notifyd.errors import PermanentError
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from tests.fixtures.engines import Member, committed, make_topic, new_group, produce
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.needs_kafka("the embedded broker deletes no records on request")


def values(count: int) -> list[bytes]:
    return [f"v{number}".encode() for number in range(count)]


async def delete_up_to(settings: Settings, topic: str, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


class Held(Member):
    """Works on ten records at a time, and holds the first five until the gate opens."""

    def __init__(self, settings: Settings, topic: str) -> None:
        small = settings.model_copy(update={"kafka_window_records": 10, "kafka_max_poll_records": 10})
        super().__init__(small, new_group(), [topic], work=self.hold)
        self.gate = asyncio.Event()
        self.begun: list[int] = []

    async def hold(self, batch: Batch, record: Record) -> None:
        self.begun.append(record.offset)
        if record.offset < 5:
            await self.gate.wait()


async def overtaken(settings: Settings, topic: str) -> Held:
    """A member with the first five records still at work when it finds that those up to 499 are gone."""
    # More than aiokafka has fetched ahead by then: a megabyte.
    await produce(settings, topic, [b"x" * 10_000 + value for value in values(600)], partition=0)
    member = Held(settings, topic)
    await member.start()
    await eventually(lambda: len(member.begun) >= 10, what="ten records at work")
    await delete_up_to(settings, topic, 500)
    # What aiokafka has fetched ahead is read on first.
    await eventually(lambda: not member.app.engine_consumer.flows, what="the loss to be noticed", every_s=0)
    assert not member.failures
    member.gate.set()
    return member


async def test_retention_that_overtakes_a_role_ends_it_with_the_range(settings: Settings) -> None:
    topic = await make_topic(settings, "lost", partitions=1)
    member = await overtaken(settings, topic)
    await eventually(lambda: member.failures, what="the role to end")
    await member.stop()
    (error,) = member.failures
    assert isinstance(error, PermanentError)
    assert error.reason == "records_lost"
    worked_on = len(member.seen)
    assert 10 <= worked_on < 500
    # Nothing that had been read was given up, and the range is exact.
    assert await committed(settings, member.group, topic, 1) == [worked_on]
    assert f"offsets {worked_on} to 499" in str(error)


async def test_an_operator_can_go_on_past_it_and_nothing_that_was_read_is_dropped(
    settings: Settings,
) -> None:
    topic = await make_topic(settings, "lost", partitions=1)
    on = settings.model_copy(update={"kafka_skip_lost_records": True})
    member = await overtaken(on, topic)
    await eventually(lambda: any(value.endswith(b"v599") for value in member.seen), what="the last record")
    await eventually(lambda: member.begun[-1] == 599)
    await member.stop()
    assert not member.failures
    offsets = member.begun
    lost = [offset for offset in range(600) if offset not in set(offsets)]
    assert lost == [*range(lost[0], 500)]
    assert len(set(offsets)) == len(offsets)
    assert await committed(settings, member.group, topic, 1) == [600]


async def test_a_topic_that_was_made_anew_ends_the_role(settings: Settings) -> None:
    topic = await make_topic(settings, "lost", partitions=1)
    await produce(settings, topic, values(50), partition=0)
    member = await Member(settings, new_group(), [topic]).start()
    await eventually(lambda: sum(member.seen.values()) == 50, what="all records")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def is_made() -> bool:
            answer = await admin.create_topics([NewTopic(topic, 1, 1)])
            return all(not error[1] for error in answer.topic_errors)

        await eventually(is_made, what="the topic anew", every_s=0.3)
    finally:
        await admin.close()
    await produce(settings, topic, values(5), partition=0)
    await eventually(lambda: member.failures or sum(member.seen.values()) > 50, what="a word", timeout_s=60)
    await member.stop()
    assert [getattr(error, "reason", error) for error in member.failures] == ["records_lost"]
    assert "made anew" in str(member.failures[0])
