"""A process that comes back under the name of one that was killed waits for no session to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from notifyd.settings import Settings
from notifyd.stream.predecessor import take_place
from tests.fixtures.engines import Member, make_topic, new_group, produce
from tests.fixtures.waiting import eventually

Join = Callable[[str, str, str], Awaitable[AIOKafkaConsumer]]

#: Far beyond what a test may take: nobody here comes in by waiting for it.
SESSION_S = 120.0


@pytest.fixture
async def join(settings: Settings) -> AsyncIterator[Join]:
    """Join a group as a member that reads nothing, with a session that outlives the test."""
    members = []

    async def join(group: str, topic: str, client_id: str) -> AIOKafkaConsumer:
        member = AIOKafkaConsumer(
            topic,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=int(SESSION_S * 1000),
            heartbeat_interval_ms=500,
            # A rebalance waits for the members that it knows for so long.
            rebalance_timeout_ms=int(SESSION_S * 1000),
        )
        members.append(member)
        await member.start()
        return member

    yield join
    for member in members:
        await member.stop()


async def kill(member: AIOKafkaConsumer) -> None:
    """Let it be heard of no more, as after kill -9: it has not left its group."""
    coordinator = member._coordinator
    for task in (coordinator._heartbeat_task, coordinator._coordination_task):
        if task is not None:
            task.cancel()
    await member._client.close()


async def names_in(settings: Settings, group: str) -> list[str]:
    """Return the client ids in a group, of those who wait to be let in, too."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        [answer] = await admin.describe_consumer_groups([group])
        return [client_id for told in answer.groups for _, client_id, *_ in told[5]]
    finally:
        await admin.close()


def named(settings: Settings, name: str) -> Settings:
    patient = {"kafka_session_timeout_s": SESSION_S, "kafka_rebalance_timeout_s": SESSION_S}
    return settings.model_copy(update={"pod_name": name, **patient})


@pytest.mark.needs_kafka("the embedded broker does not tell who is in a group")
async def test_one_that_comes_back_under_the_name_of_a_killed_one_reads_at_once(
    settings: Settings, join: Join
) -> None:
    topic = await make_topic(settings, "predecessor")
    await produce(settings, topic, [b"%d" % number for number in range(40)])
    group = new_group()
    killed = await join(group, topic, "notifyd-test-pod-1")
    assert len(killed.assignment()) == 4
    await kill(killed)
    member = await Member(named(settings, "pod-1"), group, [topic]).start()
    await eventually(lambda: len(member.seen) == 40, what="all records")
    await member.stop()


@pytest.mark.needs_kafka("the embedded broker does not tell who is in a group")
async def test_a_kill_during_a_rebalance_does_not_keep_the_group_from_reading(
    settings: Settings, join: Join
) -> None:
    """Two are dead, one of them while it waited to be let in; both come back."""
    topic = await make_topic(settings, "predecessor")
    await produce(settings, topic, [b"%d" % number for number in range(40)])
    group = new_group()
    first = await join(group, topic, "notifyd-test-pod-1")
    await kill(first)
    # The group waits for the first, so the second waits to be let in when it is killed.
    second = AIOKafkaConsumer(  # never stopped: that would wait for the group
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id="notifyd-test-pod-2",
        group_id=group,
        enable_auto_commit=False,
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
        session_timeout_ms=int(SESSION_S * 1000),
        rebalance_timeout_ms=int(SESSION_S * 1000),
    )
    await second.start()
    second.subscribe([topic])

    async def has_asked() -> bool:
        return "notifyd-test-pod-2" in await names_in(settings, group)

    await eventually(has_asked, what="the second to ask to be let in")
    await kill(second)
    members = [await Member(named(settings, f"pod-{number}"), group, [topic]).start() for number in (2, 1)]
    await eventually(lambda: sum(len(member.seen) for member in members) >= 40, what="all records")
    for member in members:
        await member.stop()


@pytest.mark.needs_kafka("the embedded broker does not tell who is in a group")
async def test_members_of_other_names_are_left_alone(settings: Settings, join: Join) -> None:
    topic = await make_topic(settings, "predecessor")
    group = new_group()
    await join(group, topic, "notifyd-test-pod-10")
    assert await take_place(settings, group, "notifyd-test-pod-1") == 0
    # It is still in there, to be asked to leave by its own name.
    assert await take_place(settings, group, "notifyd-test-pod-10") == 1
    assert await take_place(settings, group, "notifyd-test-pod-10") == 0


async def test_a_group_that_nobody_knows_and_a_broker_that_is_away_are_no_hindrance(
    settings: Settings,
) -> None:
    assert await take_place(settings, new_group(), "notifyd-test-pod-1") == 0
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    assert await take_place(away, new_group(), "notifyd-test-pod-1") == 0


async def test_the_name_of_the_host_is_taken_from_nobody(settings: Settings) -> None:
    """Two processes on one host, as run by hand: neither sends the other away."""
    topic = await make_topic(settings, "predecessor")
    group = new_group()
    members = [await Member(settings, group, [topic]).start() for _ in range(2)]
    await eventually(
        lambda: all(len(member.app.engine_consumer.flows) == 2 for member in members),
        what="both to have their share",
    )
    await produce(settings, topic, [b"%d" % number for number in range(40)])
    await eventually(lambda: sum(len(member.seen) for member in members) == 40, what="all records")
    for member in members:
        await member.stop()
