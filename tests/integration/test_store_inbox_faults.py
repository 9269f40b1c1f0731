"""The unread counter is right at the end, whoever marks, writes, expires and is cut off at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from notifyd.delivery.event import encode_events
from notifyd.dev.postgres import LocalPostgres
from notifyd.errors import TransientError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.batch import MessageRow
from notifyd.store.inbox import read_page
from notifyd.store.migrate import migrate
from notifyd.store.persist import PersistStore
from notifyd.store.pool import Database
from notifyd.store.reading import Change, mark_ids, mark_up_to, read_unread
from tests.fixtures.inbox import ago, all_pages, assert_counters_are_right, put
from tests.fixtures.postgres import run_sql
from tests.fixtures.store import (
    EVENTS,
    INCARNATION,
    MESSAGES,
    Store,
    envelope,
    event_of,
    open_database,
    open_store,
    random_id,
    row,
)
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.each_postgres

_USERS = ("alice", "bob", "carol")
_CHANGES: tuple[Change, ...] = ("seen", "read", "archived")


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def test_of_two_devices_that_mark_the_same_at_once_each_change_is_told_to_one(store: Store) -> None:
    ids = [await put(store, ago(minutes=n + 1), to=_USERS) for n in range(60)]
    shuffled = random.sample(ids, len(ids))
    told = await asyncio.gather(
        *(mark_ids(store.database, "alice", "read", part, pod="api-1") for part in (ids, shuffled, ids[::-1]))
    )
    assert sorted(itertools.chain(*(one.ids for one in told))) == sorted(ids)
    assert await read_unread(store.database, "alice") == 0
    assert await read_unread(store.database, "bob") == 60
    await assert_counters_are_right(store)


async def _until_it_works(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
            return
        except TransientError:
            await asyncio.sleep(0.01)


async def _write(database: Database, partition: int, rows: list[MessageRow]) -> None:
    """Store messages, and what devices said of some of them by the other way, through Kafka."""
    persist = PersistStore(database, INCARNATION, f"persist-{partition}", Metrics())

    async def on_refused(refused: object) -> None:
        raise AssertionError(refused)

    for topic, size in ((MESSAGES, 9), (EVENTS, 5)):
        at = 0
        while at < len(rows):
            batch = [MessageRow(one.message, partition, at + n) for n, one in enumerate(rows[at : at + size])]
            end = at + len(batch)
            values = [
                (one.offset, encode_events([event_of(one, random.choice(["seen", "read"]), user=user)]))
                for one in batch
                for user in one.message.recipients[:1]
            ]

            write = (
                partial(persist.write_messages, topic, partition, at, end, batch, on_refused)
                if topic == MESSAGES
                else partial(persist.write_events, topic, partition, at, end, values, on_refused)
            )
            await _until_it_works(write)
            at = end


async def _use(database: Database, user: str, writing: asyncio.Future[object], failures: list[str]) -> None:
    """Do what a user's device does, until nothing is written any more."""
    rng = random.Random(user)
    while not writing.done():
        try:
            page = await read_page(database, user, limit=20)
            ids = [one.message_id for one in rng.sample(page.rows, len(page.rows) // 2)]
            await mark_ids(database, user, rng.choice(_CHANGES), ids, pod="api-1")
            if page.rows:
                at = rng.choice(page.rows).position
                await mark_up_to(database, user, rng.choice(_CHANGES), at, "api-1", limit=30)
            await read_unread(database, user)
        except TransientError as error:
            failures.append(error.message)
        await asyncio.sleep(0)


def _rows(count: int) -> list[MessageRow]:
    return [
        row(
            envelope(
                random_id() if n % 4 == 0 else None,
                to=random.sample(_USERS, 2),
                **({"ttl": "1s"} if n % 5 == 0 else {}),
            ),
            n,
        )
        for n in range(count)
    ]


async def test_users_who_read_while_persist_writes_neither_deadlock_nor_drift(store: Store) -> None:
    parts = [_rows(80) for _ in range(2)]
    failures: list[str] = []
    writing = asyncio.gather(*(_write(store.database, n, rows) for n, rows in enumerate(parts)))
    await asyncio.gather(
        writing, *(_use(store.database, user, writing, failures) for user in (*_USERS, *_USERS))
    )
    assert failures == []
    assert await store.fetch("SELECT count(*) > 200 FROM message_event") == [(True,)]
    await assert_counters_are_right(store)
    for user in _USERS:
        await read_unread(store.database, user)
    await assert_counters_are_right(store)


async def test_connections_cut_while_users_read_and_persist_writes_leave_the_counter_right(
    store: Store, migrated_database_url: str
) -> None:
    name = migrated_database_url.rpartition("/")[2]
    failures: list[str] = []
    async with open_database(migrated_database_url) as database:
        writing = asyncio.gather(*(_write(database, n, _rows(60)) for n in range(2)))
        using = asyncio.gather(*(_use(database, user, writing, failures) for user in _USERS))
        for _ in itertools.takewhile(lambda _: not writing.done(), range(30)):
            await asyncio.sleep(random.uniform(0, 0.03))
            await asyncio.to_thread(
                run_sql,
                migrated_database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND application_name = 'notifyd' AND state <> 'idle'",
            )
        await asyncio.gather(writing, using)
    assert await store.fetch("SELECT count(*) FROM message") == [(120,)]
    await assert_counters_are_right(store)


async def test_a_backend_killed_in_the_middle_of_marking_leaves_all_of_it_or_nothing(
    own_postgres: LocalPostgres,
) -> None:
    await migrate(Settings(database_url=own_postgres.url))
    async with open_store(own_postgres.url) as store:
        ids = [await put(store, ago(minutes=n + 1)) for n in range(40)]
        # Whoever holds the counter keeps the mark from its end, the rows already written.
        async with store.database.transaction() as holder:
            await holder.fetch("SELECT * FROM user_state FOR UPDATE")
            marking = asyncio.create_task(mark_ids(store.database, "alice", "read", ids, pod="api-1"))
            waiting: list[tuple[int, ...]] = []
            while not waiting:
                # Not by the holder: within a transaction this view stands still.
                waiting = await store.fetch("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            backends = await store.fetch("SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL")
            os.kill(waiting[0][0], signal.SIGKILL)
            with pytest.raises(TransientError):
                await marking
            with contextlib.suppress(TransientError):
                await holder.commit()
    # The server ends all its backends when one was killed, one after the other: some still answer meanwhile.
    processes = [Path(f"/proc/{pid}") for (pid,) in backends]
    await eventually(lambda: not any(one.exists() for one in processes), what="the backends to end")

    async def look() -> None:
        async with open_database(own_postgres.url):
            pass

    await _until_it_works(look)
    async with open_store(own_postgres.url) as store:
        assert await read_unread(store.database, "alice") == 40
        await assert_counters_are_right(store)
        marked = await mark_ids(store.database, "alice", "read", ids, pod="api-1")
        assert (len(marked.ids), marked.unread) == (40, 0)
        assert len(await all_pages(store)) == 40
        await assert_counters_are_right(store)
