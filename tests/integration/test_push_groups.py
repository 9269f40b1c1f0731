"""A ws process leaves nothing behind in the broker: the seam of aiokafka that deletes its group."""

from __future__ import annotations

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from notifyd.settings import Settings
from notifyd.stream.groups import delete_group
from tests.fixtures.engines import Member, make_topic, new_group, produce
from tests.fixtures.roles import surroundings
from tests.fixtures.waiting import eventually
from tests.integration.test_push_resume import ws_pod

pytestmark = pytest.mark.needs_kafka(reason="the embedded broker deletes no groups")


async def groups_of(settings: Settings) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        return {name for name, _ in await admin.list_consumer_groups()}
    finally:
        await admin.close()


async def test_a_process_that_leaves_deletes_its_group(settings: Settings) -> None:
    async with surroundings(settings) as around:
        async with ws_pod(around.context) as pod:
            group = pod.role.app.options.group
            assert group in await groups_of(settings)
        assert group not in await groups_of(settings)


async def test_a_group_with_members_or_an_unknown_one_stays_as_it_is(settings: Settings) -> None:
    topic, group = await make_topic(settings, "groups", partitions=1), new_group()
    member = await Member(settings, group, [topic]).start()
    await produce(settings, topic, [b"1"])
    await eventually(lambda: sum(member.seen.values()) == 1)
    assert not await delete_group(settings, group, limit_s=5)
    assert group in await groups_of(settings)
    await member.stop()
    assert await delete_group(settings, group, limit_s=5)
    assert not await delete_group(settings, new_group(), limit_s=5)


async def test_a_broker_that_is_away_costs_no_more_than_the_limit(settings: Settings) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    assert not await delete_group(away, "any", limit_s=0.3)
