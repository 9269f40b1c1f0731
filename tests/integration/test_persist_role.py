"""The persist role on a real broker and a real database: rows, marks, dead letters, outages."""

from __future__ import annotations

import asyncio

import psycopg2
import pytest
from pydantic import SecretStr

from notifyd.delivery.event import Event, encode_events
from notifyd.message.envelope import Limits, decode
from notifyd.message.ids import new_id
from notifyd.roles.persist import PersistRole
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord
from tests.fixtures.roles import Surroundings, surroundings
from tests.fixtures.waiting import eventually


@pytest.fixture
def both(settings: Settings, migrated_database_url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(migrated_database_url)})


def rows(settings: Settings, sql: str) -> list[tuple[object, ...]]:
    assert settings.database_url is not None
    with psycopg2.connect(settings.database_url.get_secret_value()) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchall()


async def letters(around: Surroundings, count: int) -> list[object]:
    async def enough() -> list[object]:
        found = await around.records(around.topics.dlq)
        return found if len(found) >= count else []

    return await eventually(enough, every_s=0.3, what=f"{count} dead letters")


async def count_of(settings: Settings, table: str, count: int) -> None:
    await eventually(
        lambda: rows(settings, f"select count(*) from {table}") == [(count,)], what=f"{count} rows in {table}"
    )


async def test_messages_become_rows_of_every_kind(both: Settings) -> None:
    async with surroundings(both) as around, around.running(PersistRole):
        ids = [new_id() for _ in range(200)]
        await asyncio.gather(
            *(around.send(id=one, to=["alice", "bob"], title="Hi", channels=["ws", "webhook"]) for one in ids)
        )
        await count_of(both, "message", 200)
    assert {str(row[0]) for row in rows(both, "select id from message")} == set(ids)
    assert rows(both, "select count(*) from inbox") == [(400,)]
    assert rows(both, "select count(*) from delivery") == [(800,)]
    assert not around.failures


async def test_what_is_invalid_is_dead_lettered_byte_for_byte_and_the_rest_goes_through(
    both: Settings,
) -> None:
    bad = [b"not json", b'{"from": "x"', b"\x00", b"{}", b"[]"]
    async with surroundings(both) as around, around.running(PersistRole):
        for number in range(25):
            await around.send(id=new_id(), to=["alice"], title="Hi")
            if number % 5 == 0:
                await around.send(raw=bad[number // 5])
        await count_of(both, "message", 25)
        found = await letters(around, 5)
    assert {letter.value for letter in found} == set(bad)  # type: ignore[attr-defined]


async def test_the_same_id_with_other_bytes_is_a_conflict_and_the_first_stays(both: Settings) -> None:
    async with surroundings(both) as around, around.running(PersistRole):
        one = new_id()
        await around.send(id=one, to=["alice"], title="first")
        await count_of(both, "message", 1)
        await around.send(id=one, to=["mallory"], title="second")
        (letter,) = await letters(around, 1)
    assert dict(letter.headers)["notifyd-reason"] == b"id_conflict"  # type: ignore[attr-defined]
    assert rows(both, "select user_id from inbox") == [("alice",)]


async def test_a_repeated_message_is_silently_done(both: Settings) -> None:
    async with surroundings(both) as around, around.running(PersistRole):
        one, created = new_id(), "2026-11-24T10:00:00Z"
        for _ in range(3):
            await around.send(id=one, to=["alice"], title="same", created_at=created)
        await around.send(id=new_id(), to=["alice"], title="last")
        await count_of(both, "message", 2)
        assert not await around.records(around.topics.dlq)


async def test_it_starts_at_its_marks_and_not_at_the_group_s_offsets(both: Settings) -> None:
    async with surroundings(both) as around:
        async with around.running(PersistRole):
            for _ in range(20):
                await around.send(id=new_id(), to=["alice"], title="Hi")
            await count_of(both, "message", 20)
        # What a failover to a standby that lagged would leave: fewer rows, and the marks of then.
        assert both.database_url is not None
        with psycopg2.connect(both.database_url.get_secret_value()) as connection:
            connection.cursor().execute(
                "delete from inbox; delete from delivery; delete from message; delete from partition_mark"
            )
        async with around.running(PersistRole):
            await count_of(both, "message", 20)


async def test_marks_that_moved_back_under_a_running_role_are_followed(both: Settings) -> None:
    async with surroundings(both) as around, around.running(PersistRole):
        for _ in range(20):
            await around.send(id=new_id(), to=["alice"], title="Hi")
        await count_of(both, "message", 20)
        assert both.database_url is not None
        with psycopg2.connect(both.database_url.get_secret_value()) as connection:
            connection.cursor().execute(
                "delete from inbox; delete from delivery; delete from message;"
                "update partition_mark set next_offset = first_offset"
            )
        for _ in range(20):
            await around.send(id=new_id(), to=["alice"], title="Hi")
        await count_of(both, "message", 40)


async def test_events_join_the_message_whichever_comes_first(both: Settings) -> None:
    async with surroundings(both) as around, around.running(PersistRole):
        one = new_id()
        await around.send(id=one, to=["alice"], title="Hi", channels=["webhook"])
        (record,) = await around.records(around.topics.messages)
        message = decode(record.value, timestamp_ms=record.timestamp, limits=Limits())
        event = Event(
            id=one,
            day=message.day.isoformat(),
            digest=message.digest,
            user="alice",
            channel="webhook",
            stage="sent",
            at=record.timestamp + 5,
            pod="test",
            attempt=1,
        )
        await around.context.producer.send(OutRecord(around.topics.events, encode_events([event])))
        await around.context.producer.send(OutRecord(around.topics.events, b"no event"))
        await eventually(lambda: rows(both, "select state from delivery") == [("sent",)])
        (letter,) = await letters(around, 1)
    assert letter.value == b"no event"  # type: ignore[attr-defined]
