"""Nothing is lost and nothing is there twice, whoever is cut off when, and however many write at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from notifyd.delivery.event import encode_events
from notifyd.errors import TransientError
from notifyd.metrics import Metrics
from notifyd.store.batch import MessageRow
from notifyd.store.persist import PersistStore
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

pytestmark = pytest.mark.each_postgres

_USERS = ["alice", "bob", "carol", "dave"]


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


def _rows(count: int, *, first: int = 0) -> list[MessageRow]:
    return [
        row(envelope(random_id() if n % 5 == 0 else None, to=random.sample(_USERS, 2)), first + n)
        for n in range(count)
    ]


async def _write_all(
    persist: PersistStore, partition: int, rows: list[MessageRow], *, is_events: bool
) -> None:
    """Do as the role does: go on from the mark, call again after what may pass."""
    topic = EVENTS if is_events else MESSAGES
    at: int | None = None

    async def on_refused(refused: object) -> None:
        raise AssertionError(refused)

    while at is None:
        with contextlib.suppress(TransientError):
            at = (await persist.start_offsets(topic, [partition])).get(partition, 0)
    while at < len(rows):
        batch = rows[at : at + 7]
        try:
            if is_events:
                values = [
                    (
                        at + n,
                        encode_events([event_of(one, stage, user=user) for user in one.message.recipients]),
                    )
                    for n, one in enumerate(batch)
                    for stage in [random.choice(["acked", "read"])]
                ]
                written = await persist.write_events(
                    topic, partition, at, at + len(batch), values, on_refused
                )
            else:
                placed = [MessageRow(one.message, partition, at + n) for n, one in enumerate(batch)]
                written = await persist.write_messages(
                    topic, partition, at, at + len(batch), placed, on_refused
                )
            at = written.mark
        except TransientError:
            await asyncio.sleep(0.01)


async def _assert_whole(store: Store, rows: list[MessageRow]) -> None:
    deliveries = sum(len(one.message.recipients) for one in rows)
    assert await store.fetch("SELECT count(*), count(DISTINCT id) FROM message") == [(len(rows), len(rows))]
    assert await store.fetch("SELECT count(*) FROM delivery") == [(deliveries,)]
    assert await store.fetch("SELECT count(*) FROM inbox") == [(deliveries,)]
    drift = await store.fetch(
        "SELECT user_id, s.unread, i.unread FROM user_state s FULL JOIN"
        " (SELECT user_id, count(*) FILTER (WHERE read_at IS NULL) AS unread FROM inbox GROUP BY 1) i"
        " USING (user_id) WHERE s.unread IS DISTINCT FROM i.unread"
    )
    assert drift == []
    assert await store.fetch("SELECT count(*) FROM message WHERE state = 'held'") == [(0,)]


async def test_writers_of_messages_and_events_side_by_side_agree(store: Store) -> None:
    rows = _rows(120)
    parts = [rows[n::3] for n in range(3)]
    metrics = Metrics()
    stores = [PersistStore(store.database, INCARNATION, f"persist-{n}", metrics) for n in range(2)]
    await asyncio.gather(
        *(_write_all(stores[n % 2], n, part, is_events=False) for n, part in enumerate(parts)),
        *(_write_all(stores[1 - n % 2], n, part, is_events=True) for n, part in enumerate(parts)),
    )
    await _assert_whole(store, rows)
    assert await store.fetch("SELECT count(*) FROM early_event") == [(0,)]
    assert await store.fetch("SELECT count(*) FROM message_event") == [(240,)]


async def test_two_owners_of_one_partition_write_each_row_once(store: Store) -> None:
    rows = _rows(60)
    stores = [PersistStore(store.database, INCARNATION, f"persist-{n}", Metrics()) for n in range(2)]
    await asyncio.gather(*(_write_all(persist, 0, rows, is_events=False) for persist in stores))
    await _assert_whole(store, rows)


async def test_connections_cut_at_any_moment_lose_and_double_nothing(
    store: Store, migrated_database_url: str
) -> None:
    rows = _rows(150)
    name = migrated_database_url.rpartition("/")[2]
    async with open_database(migrated_database_url) as database:
        persist = PersistStore(database, INCARNATION, "persist-1", Metrics())
        work = asyncio.gather(
            _write_all(persist, 0, rows, is_events=False), _write_all(persist, 0, rows, is_events=True)
        )
        for _ in itertools.takewhile(lambda _: not work.done(), range(40)):
            await asyncio.sleep(random.uniform(0, 0.03))
            await asyncio.to_thread(
                run_sql,
                migrated_database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND application_name = 'notifyd' AND state <> 'idle'",
            )
        await work
    await _assert_whole(store, rows)


_WRITER = """
import asyncio, pickle, sys
sys.path.insert(0, sys.argv[3])
from tests.integration import test_store_faults as faults

async def work():
    values = pickle.load(open(sys.argv[2], "rb"))
    rows = [faults.row(value, n, timestamp_ms=at) for n, (value, at) in enumerate(values)]
    async with faults.open_database(sys.argv[1]) as database:
        persist = faults.PersistStore(database, faults.INCARNATION, "persist-1", faults.Metrics())
        await asyncio.gather(*(faults._write_all(persist, 0, rows, is_events=e) for e in (False, True)))

asyncio.run(work())
"""


@pytest.mark.parametrize("seed", range(2))
async def test_a_process_killed_while_it_writes_is_taken_up_where_it_was(
    store: Store, migrated_database_url: str, tmp_path: Path, seed: int
) -> None:
    rows = _rows(300)
    file = tmp_path / "rows"
    file.write_bytes(pickle.dumps([(one.message.raw, one.message.timestamp_ms) for one in rows]))
    command = [sys.executable, "-c", _WRITER, migrated_database_url, str(file), str(Path.cwd())]
    random.seed(seed)
    for _ in range(4):
        writer = subprocess.Popen(command)
        goal = random.randrange(20, 120) + (await store.fetch("SELECT count(*) FROM message"))[0][0]
        while writer.poll() is None and (  # noqa: ASYNC110
            await store.fetch("SELECT count(*) FROM message")
        ) < [(goal,)]:
            await asyncio.sleep(0.005)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert await asyncio.to_thread(subprocess.call, command) == 0
    await _assert_whole(store, rows)
