"""Of a user's messages with the same `collapseKey` of one sender the inbox shows and counts the newest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from notifyd.store.batch import MessageRow
from notifyd.store.forget import forget
from notifyd.store.inbox import Filter
from notifyd.store.reading import mark_ids, read_unread
from tests.fixtures.inbox import ago, all_pages, assert_counters_are_right, id_at, put
from tests.fixtures.store import MESSAGES, Store, envelope, open_store, row

pytestmark = pytest.mark.each_postgres

HOUR_AGO_MS = int(ago(hours=1).timestamp() * 1000)


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def _holds(store: Store, user: str, ids: list[str], *, unread: int | None = None) -> None:
    assert await all_pages(store, user) == ids
    assert await read_unread(store.database, user) == (len(ids) if unread is None else unread)
    await assert_counters_are_right(store)


async def test_a_newer_one_takes_the_place_of_the_one_before(store: Store) -> None:
    old = await put(store, ago(days=3), to=["alice", "bob"], collapseKey="order-1")
    other = await put(store, ago(days=2), collapseKey="order-2")
    plain = await put(store, ago(days=2, hours=1))
    await _holds(store, "alice", [other, plain, old])
    new = await put(store, ago(hours=1), collapseKey="order-1")
    await _holds(store, "alice", [new, other, plain])
    # Who did not get the newer one keeps the older.
    await _holds(store, "bob", [old])
    newest = await put(store, ago(minutes=1), collapseKey="order-1")
    await _holds(store, "alice", [newest, other, plain])


async def test_one_that_comes_late_is_not_shown(store: Store) -> None:
    new = await put(store, ago(hours=1), collapseKey="k")
    await put(store, ago(hours=2), collapseKey="k")
    await _holds(store, "alice", [new])


async def test_one_that_was_read_goes_as_well(store: Store) -> None:
    old = await put(store, ago(hours=2), collapseKey="k")
    await mark_ids(store.database, "alice", "read", [old], pod="api-1")
    assert await read_unread(store.database, "alice") == 0
    new = await put(store, ago(hours=1), collapseKey="k")
    await _holds(store, "alice", [new])
    assert await all_pages(store, only=Filter(is_archived=True)) == []


async def test_what_came_twice_replaces_nothing_the_second_time(store: Store) -> None:
    values = [envelope(id_at(ago(hours=hours)), collapseKey="k") for hours in (3, 2)]
    rows = [row(value, at) for at, value in enumerate(values)]
    await store.messages(rows)
    [kept] = await all_pages(store)
    await store.messages([row(value, at) for at, value in enumerate(reversed(values), 2)])
    await _holds(store, "alice", [kept])


async def test_of_one_batch_the_newest_stays(store: Store) -> None:
    ids = [id_at(ago(hours=1)) for _ in range(20)]
    rows = [
        row(
            envelope(message_id, to=["alice", "bob"], collapseKey=f"k{at % 3}"),
            at,
            timestamp_ms=HOUR_AGO_MS + at,
        )
        for at, message_id in enumerate(ids)
    ]
    await store.messages(rows)
    await _holds(store, "alice", ids[:-4:-1])
    await _holds(store, "bob", ids[:-4:-1])


async def test_a_scheduled_one_counts_from_its_release(store: Store) -> None:
    made = ago(days=6)
    value = envelope(
        id_at(made), created=made.isoformat(), notBefore=ago(days=1).isoformat(), collapseKey="k"
    )
    await store.messages([row(value, 0, timestamp_ms=int(made.timestamp() * 1000))])
    early = await put(store, ago(days=5), collapseKey="k")
    await _holds(store, "alice", [early])
    await store.messages([row(value, 3, timestamp_ms=int(ago(hours=20).timestamp() * 1000))])
    [released] = await all_pages(store)
    assert released != early
    await _holds(store, "alice", [released])
    latest = await put(store, ago(hours=1), collapseKey="k")
    await _holds(store, "alice", [latest])


async def test_other_senders_and_users_keys_are_not_the_same(store: Store) -> None:
    first = await put(store, ago(hours=3), collapseKey="k")
    second = envelope(id_at(ago(hours=2)), collapseKey="k")
    second = second.replace(b'"from": "orders"', b'"from": "billing"')
    await store.messages([row(second, store.at[MESSAGES])])
    assert len(await all_pages(store)) == 2
    await put(store, ago(hours=1), to=["bob"], collapseKey="k")
    assert first in await all_pages(store)
    await assert_counters_are_right(store)


async def test_writers_and_a_reader_at_once_leave_one_of_each_key(store: Store) -> None:
    chance = random.Random(7)
    users = ["alice", "bob", "carol"]
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    batches = []
    for _ in range(12):
        rows = []
        for at in range(10):
            message_id = id_at(ago(hours=1))
            to, key = chance.sample(users, 2), f"k{chance.randrange(3)}"
            at_ms = HOUR_AGO_MS + chance.randrange(10_000)
            value = envelope(message_id, to=to, collapseKey=key)
            rows.append(row(value, at, timestamp_ms=at_ms))
            for user in to:
                newest[user, key] = max(newest.get((user, key), (0, "")), (at_ms, message_id))
        batches.append(rows)

    async def read() -> None:
        for _ in range(30):
            for user in users:
                await all_pages(store, user)
                await read_unread(store.database, user)

    async def write(partition: int, rows: list[MessageRow]) -> None:
        end = rows[-1].offset + 1
        await store.persist.write_messages(MESSAGES, partition, 0, end, rows, store.on_refused)

    await asyncio.gather(read(), *(write(at, rows) for at, rows in enumerate(batches)))
    assert not store.refused
    for user in users:
        expected = sorted((one for (who, _), one in newest.items() if who == user), reverse=True)
        await _holds(store, user, [message_id for _, message_id in expected])


async def test_the_database_knows_no_key_and_forgets_it_with_the_user(store: Store) -> None:
    await put(store, ago(hours=1), to=["alice", "bob"], collapseKey="very-secret")
    [text] = await store.fetch("SELECT string_agg(n::text, '') FROM newest_of_key n")
    assert "very-secret" not in text[0]
    await forget(store.database, "alice", actor="an operator")
    assert await store.fetch("SELECT user_id FROM newest_of_key") == [("bob",)]
