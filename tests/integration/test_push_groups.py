"""A ws process leaves nothing behind in the broker: the seam of aiokafka that deletes its group."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from notifyd.cli.main import run_command
from notifyd.errors import TransientError
from notifyd.roles.streaming import group_of
from notifyd.settings import Settings
from notifyd.stream.groups import clear_groups, delete_group, find_groups
from notifyd.stream.groups import new_group as group_of_a_process
from tests.fixtures.engines import Member, make_topic, new_group, produce
from tests.fixtures.kafka import environment_of
from tests.fixtures.processes import ProcessStarter
from tests.fixtures.roles import surroundings
from tests.fixtures.waiting import eventually, wait_until
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


async def test_groups_that_nobody_is_in_are_found_and_cleared_and_no_others(settings: Settings) -> None:
    base, topic = group_of(settings, "ws"), await make_topic(settings, "left", partitions=1)
    names = [group_of_a_process(base), f"{base}-0f3a9c44be17", group_of_a_process(base), f"{base}-x-deliver"]
    members = [await Member(settings, name, [topic]).start() for name in names]
    await produce(settings, topic, [b"1"])
    await eventually(lambda: all(sum(member.seen.values()) == 1 for member in members))
    for member in (members[0], members[1], members[3]):
        await member.stop()
    found = {one.name: one.is_empty for one in await find_groups(settings, base)}
    assert found == {names[0]: True, names[1]: True, names[2]: False}
    # Asked for all, the broker keeps the one that somebody is in.
    assert await clear_groups(settings, names[:3]) == sorted(names[:2])
    assert [one.name for one in await find_groups(settings, base)] == [names[2]]
    assert names[3] in await groups_of(settings)
    assert await clear_groups(settings, []) == []
    await members[2].stop()
    for name in names[2:]:
        await delete_group(settings, name, limit_s=5)


async def test_a_process_whose_empty_group_was_deleted_joins_it_again(settings: Settings) -> None:
    topic, group = await make_topic(settings, "again", partitions=1), group_of_a_process("tests-ws")
    for value in (b"1", b"2"):
        member = await Member(settings, group, [topic]).start()
        await produce(settings, topic, [value])
        await eventually(lambda one=member: one.seen)
        await member.stop()
        assert await clear_groups(settings, [group]) == [group]


async def test_a_broker_that_is_away_is_told_at_once(settings: Settings) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(TransientError):
        await find_groups(away, "notifyd-ws")


def test_what_a_killed_process_left_is_cleared_by_the_command(
    start_notifyd: ProcessStarter,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)

    def groups(*args: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert run_command(["topics", "groups", "--json", *args]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["groups"]
        return found

    assert run_command(["topics", "create"]) == 0
    assert groups() == []
    killed, alive = (
        start_notifyd("--role=ws", settings=settings, name=name).wait_ready() for name in ("killed", "alive")
    )
    assert [one["state"] for one in groups("--clear", "--older-than", "0")] == ["in use"] * 2
    killed.kill()
    wait_until(lambda: "empty" in {one["state"] for one in groups()}, every_s=0.5)
    # Too young to be cleared by then, unless told so.
    assert [one["state"] for one in groups("--clear")].count("empty") == 1
    [gone] = [one for one in groups("--clear", "--older-than", "1ms") if one["state"] == "deleted"]
    assert 0 < gone["age_s"] < 300
    assert [one["state"] for one in groups()] == ["in use"]
    assert alive.sigterm() == 0
    assert groups() == []
    for wrong in ("soon", "-1h"):
        assert run_command(["topics", "groups", f"--older-than={wrong}"]) == 2
