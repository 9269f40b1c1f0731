"""`topics create` and `check` on a real broker, and the incarnation on which many creators agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from notifyd.cli.main import run_command
from notifyd.errors import PermanentError, TransientError
from notifyd.settings import Settings
from notifyd.stream import incarnation
from notifyd.stream.clients import kafka_options
from notifyd.stream.topics import Topics, admin_client, check_topics, create_topics, read_incarnation
from tests.fixtures.kafka import environment_of
from tests.fixtures.waiting import eventually


async def delete(settings: Settings, *names: str) -> None:
    async with admin_client(settings) as admin:
        await admin.delete_topics(list(names))
        await eventually(lambda: _are_gone(admin, names), what="the topics to go")


async def _are_gone(admin: AIOKafkaAdminClient, names: tuple[str, ...]) -> bool:
    return not set(names) & set(await admin.list_topics())


async def test_create_makes_all_topics_once_and_check_is_content(settings: Settings) -> None:
    assert sorted(await create_topics(settings)) == sorted(Topics.of(settings).all())
    first = await read_incarnation(settings)
    assert await check_topics(settings) == []
    assert await create_topics(settings) == []
    assert await read_incarnation(settings) == first


async def test_creators_at_once_end_with_one_incarnation(settings: Settings) -> None:
    created = await asyncio.gather(*(create_topics(settings) for _ in range(4)))
    assert sorted(name for names in created for name in names) == sorted(Topics.of(settings).all())
    ids = {await read_incarnation(settings) for _ in range(2)}
    assert len(ids) == 1


async def test_topics_made_anew_get_a_new_incarnation(settings: Settings) -> None:
    await create_topics(settings)
    first = await read_incarnation(settings)
    topics = Topics.of(settings)
    await delete(settings, topics.messages)
    assert await create_topics(settings) == [topics.messages]
    second = await read_incarnation(settings)
    assert second > first, "ids of incarnations are ordered by time"
    await delete(settings, topics.retry["5s"])
    await create_topics(settings)
    assert await read_incarnation(settings) == second, "no position points into a retry topic"


async def test_a_create_that_was_killed_half_way_is_taken_up(settings: Settings) -> None:
    topics = Topics.of(settings)
    await create_topics(settings)
    await delete(settings, topics.messages)
    known = await incarnation.read(settings)
    await incarnation.begin(settings, known, is_anew=True)  # and then the process is gone
    half = await incarnation.read(settings)
    with pytest.raises(PermanentError, match="run `notifyd topics create`"):
        await read_incarnation(settings)
    await create_topics(settings)
    assert await read_incarnation(settings) == half.id


async def test_check_names_each_difference_with_its_remedy(settings: Settings) -> None:
    topics = Topics.of(settings)
    await create_topics(settings)
    await delete(settings, topics.signals)
    wanted = settings.model_copy(update={"topic_partitions": 6})
    problems = await check_topics(wanted)
    assert f"{topics.signals} is missing: run `notifyd topics create`" in problems
    assert any(text.startswith(f"{topics.messages} has 4 partitions, fewer than 6") for text in problems)
    assert not any(topics.meta in text for text in problems)


@pytest.mark.needs_kafka("the embedded broker cannot add partitions")
async def test_more_partitions_than_asked_for_are_fine(settings: Settings) -> None:
    topics = Topics.of(settings)
    await create_topics(settings)
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    await admin.start()
    await admin.create_partitions({topics.messages: NewPartitions(8)})
    await admin.close()
    await eventually(lambda: _has(settings, topics.messages, 8))
    assert await check_topics(settings) == []


async def _has(settings: Settings, topic: str, partitions: int) -> bool:
    async with admin_client(settings) as admin:
        [found] = await admin.describe_topics([topic])
        return len(found["partitions"]) == partitions


async def test_other_retention_and_size_are_found(settings: Settings) -> None:
    await create_topics(settings)
    longer = settings.model_copy(
        update={"topic_retention_s": settings.topic_retention_s * 2, "message_max_bytes": 4_000_000}
    )
    text = "\n".join(await check_topics(longer))
    assert "retention.ms=604800000, needs 1209600000" in text
    assert "--add-config max.message.bytes=" in text


@pytest.mark.needs_kafka("the embedded broker grants any replication")
async def test_more_copies_than_brokers_is_told_with_the_setting(settings: Settings) -> None:
    with pytest.raises(PermanentError, match="NOTIFYD_TOPIC_REPLICATION must not exceed"):
        await create_topics(settings.model_copy(update={"topic_replication": 3}))


async def test_without_topics_there_is_no_incarnation_to_read(settings: Settings) -> None:
    with pytest.raises(PermanentError) as caught:
        await read_incarnation(settings)
    assert caught.value.reason == "topic_missing"
    async with admin_client(settings) as admin:
        assert Topics.of(settings).meta not in await admin.list_topics(), "reading created it"


async def test_no_broker_is_one_clear_error(settings: Settings) -> None:
    away = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    for work in (create_topics(away), check_topics(away), read_incarnation(away)):
        with pytest.raises(TransientError, match="connection refused"):
            await work


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: run_command(list(arguments))


def test_the_commands_say_what_they_did(
    command: Callable[..., int], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("topics", "check", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert len(found["problems"]) == 11
    assert command("topics", "create", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert sorted(made["created"]) == sorted(Topics.of(settings).all())
    assert made["incarnation"]
    assert command("topics", "create") == 0
    assert capsys.readouterr().out == "all topics exist\n"
    assert command("topics", "check") == 0
    assert capsys.readouterr().out == "all topics are as they must be\n"
