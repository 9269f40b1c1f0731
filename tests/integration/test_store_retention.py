"""Days that are past go, whole, with their share of the counters, whoever is cut off or holds on."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import psycopg2
import pytest
import pytest_asyncio

from notifyd.errors import TransientError
from notifyd.settings import Settings
from notifyd.store.reading import mark_ids, read_unread
from notifyd.store.retention import Retention
from notifyd.store.verify import Drift, verify_inboxes
from tests.fixtures.inbox import ago, all_pages, assert_counters_are_right, put
from tests.fixtures.store import Store, event_of, open_database, open_store, row
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.each_postgres

TABLES = ["delivery", "inbox", "message", "message_event"]


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


def retention(store: Store, **settings: int) -> Retention:
    return Retention(store.database, Settings(**settings), dt.datetime.now(dt.UTC))


def notifyd(url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "notifyd", *arguments]
    environ = {**os.environ, "NOTIFYD_DATABASE_URL": url}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def tables_of(store: Store, day: dt.datetime) -> list[str]:
    rows = await store.fetch(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE %(name)s",
        name=f"%\\_p{day:%Y%m%d}",
    )
    return sorted(name.rpartition("_p")[0] for (name,) in rows)


async def old_and_new(store: Store) -> tuple[list[str], list[str]]:
    """Store messages of 100 days ago, some of them read, and of today."""
    old = [await put(store, ago(days=100, minutes=n), to=["alice", "bob"]) for n in range(6)]
    new = [await put(store, ago(minutes=n + 1), to=["alice"]) for n in range(3)]
    await mark_ids(store.database, "alice", "read", old[:2], pod="api-1")
    return old, new


async def test_a_day_that_is_past_goes_with_its_share_of_the_counters(store: Store) -> None:
    _, new = await old_and_new(store)
    plan = await retention(store).plan()
    past = [(one.table, one.state) for one in plan.drop if one.day == ago(days=100).date()]
    assert sorted(past) == [(table, "attached") for table in TABLES]
    assert await tables_of(store, ago(days=100)) == TABLES  # planning does nothing
    done = await retention(store).run()
    assert (len(done.dropped), done.held) == (len(plan.drop), [])
    assert await tables_of(store, ago(days=100)) == []
    assert await tables_of(store, ago(days=0)) == TABLES
    assert await tables_of(store, ago(days=-2)) == TABLES  # made ahead
    assert await read_unread(store.database, "alice") == 3
    assert await read_unread(store.database, "bob") == 0
    assert await all_pages(store) == new
    await assert_counters_are_right(store)
    assert await store.fetch("SELECT count(*) FROM user_state WHERE lower(days) < current_date - 90") == [
        (0,)
    ]
    assert (await retention(store).plan()).drop == []


async def test_each_class_of_data_has_its_own_time(store: Store) -> None:
    await put(store, ago(days=50))
    await put(store, ago(days=36))
    await retention(store, retention_trace_days=34, retention_inbox_days=40).run()
    assert await tables_of(store, ago(days=50)) == ["message"]
    assert await tables_of(store, ago(days=36)) == ["inbox", "message"]
    assert await read_unread(store.database, "alice") == 1
    await assert_counters_are_right(store)


async def test_rows_without_a_day_go_when_they_are_past(store: Store) -> None:
    await store.database.fetch(
        "INSERT INTO message_id"
        " SELECT gen_random_uuid(), current_date - n, '' FROM generate_series(88, 95) n;"
        " INSERT INTO early_event"
        " SELECT gen_random_uuid(), gen_random_uuid(), '{}', now() - make_interval(days => n)"
        "   FROM generate_series(1, 10) n;"
        " INSERT INTO pod_position"
        " SELECT 'pod-' || n, 1, 0, 'pod', 0, 0, 0, now(), now() - make_interval(days => n)"
        "   FROM generate_series(0, 3) n;"
        " INSERT INTO dlq_audit (at, actor, action, incarnation_id, kafka_partition, kafka_offset, reason)"
        " SELECT now() - make_interval(days => n), 'op', 'replay', 1, 0, 0, 'x'"
        "   FROM generate_series(393, 397) n;"
        " INSERT INTO newest_of_key (user_id, key, message_id, day, arrived_at)"
        " SELECT 'alice', gen_random_uuid(), gen_random_uuid(), current_date - n, now()"
        "   FROM generate_series(87, 94) n"
    )
    planned = (await retention(store).plan()).rows
    done = await retention(store).run()
    assert (
        done.rows
        == planned
        == {
            "message_id": 5,
            "early_event": 4,
            "pod_position": 3,
            "dlq_audit": 3,
            "newest_of_key": 4,
        }
    )
    left = await store.fetch("SELECT count(*) FROM message_id")
    assert left == [(3,)]


async def test_of_two_runs_at_once_one_works(store: Store) -> None:
    await old_and_new(store)
    results = await asyncio.gather(*(retention(store).run() for _ in range(3)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, TransientError)]
    assert {one.reason for one in refused} <= {"retention_running"}
    assert len(refused) < 3
    assert await tables_of(store, ago(days=100)) == []
    await assert_counters_are_right(store)


@pytest.mark.parametrize("table", TABLES)
async def test_what_was_cut_off_between_detaching_and_dropping_is_taken_up(store: Store, table: str) -> None:
    await old_and_new(store)
    name = f"{table}_p{ago(days=100):%Y%m%d}"
    await store.database.fetch(f"ALTER TABLE {table} DETACH PARTITION {name}")
    plan = await retention(store).plan()
    assert {one.name: one.state for one in plan.drop}[name] == "detached"
    await retention(store).run()
    assert await tables_of(store, ago(days=100)) == []
    await assert_counters_are_right(store)


async def test_a_run_killed_while_it_detaches_is_taken_up_by_the_next(
    store: Store, migrated_database_url: str
) -> None:
    await old_and_new(store)
    reader = psycopg2.connect(migrated_database_url)
    with reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM inbox")  # an open transaction, which detaching waits for
    run = notifyd(migrated_database_url, "retention", "run")
    try:
        pending = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending"
        [(name,)] = await eventually(lambda: store.fetch(pending), what="the detaching to wait")
        run.send_signal(signal.SIGKILL)
        run.wait()
        await store.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'notifyd-retention'"
        )
        assert name.startswith("inbox_p")
        # Nobody else was kept waiting.
        await put(store, ago(seconds=1))
        assert await read_unread(store.database, "alice") == 4
    finally:
        run.kill()
        run.communicate()
        reader.rollback()
        reader.close()

    async def is_free() -> bool:
        return await store.fetch("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []

    await eventually(is_free, what="the lock of the killed run")
    again = notifyd(migrated_database_url, "retention", "run", "--json")
    said, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert name in {one["partition"] for one in json.loads(said)["dropped"]}
    assert await tables_of(store, ago(days=100)) == []
    await assert_counters_are_right(store)


async def test_what_others_hold_is_left_for_the_next_run_and_the_rest_goes(
    store: Store, migrated_database_url: str
) -> None:
    await old_and_new(store)
    await put(store, ago(days=101))
    reader = psycopg2.connect(migrated_database_url)
    with reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM delivery")
    async with open_database(migrated_database_url, database_statement_timeout_s=0.3) as database:
        done = await Retention(database, Settings(), dt.datetime.now(dt.UTC)).run()
        assert {one.table for one in done.held} == {"delivery"}
        assert len(done.held) > 1
        assert await tables_of(store, ago(days=100)) == ["delivery"]
        await assert_counters_are_right(store)
        reader.rollback()
        reader.close()
        done = await Retention(database, Settings(), dt.datetime.now(dt.UTC)).run()
    assert done.held == []
    assert await tables_of(store, ago(days=100)) == []


async def test_a_day_that_is_to_be_kept_after_all_is_attached_again(store: Store) -> None:
    old, new = await old_and_new(store)
    await store.database.fetch(
        f"ALTER TABLE message DETACH PARTITION message_p{ago(days=100):%Y%m%d}; SELECT 1"
    )
    kept = {"retention_message_days": 200, "retention_inbox_days": 200, "retention_trace_days": 200}
    assert (await retention(store, **kept).plan()).attach == [ago(days=100).date()]
    done = await retention(store, **kept).run()
    assert done.dropped == []
    assert await all_pages(store) == [*new, *old]
    assert await store.fetch("SELECT count(*) FROM message") == [(9,)]


async def test_late_events_of_a_day_that_went_neither_fail_nor_bring_anything_back(store: Store) -> None:
    old, _ = await old_and_new(store)
    [(raw,)] = await store.fetch("SELECT raw FROM message WHERE id = %(id)s::uuid", id=old[0])
    await retention(store).run()
    one = row(bytes(raw), 0, timestamp_ms=int(ago(days=100).timestamp() * 1000))
    events = [event_of(one, "acked"), event_of(one, "read")]
    with pytest.raises(TransientError, match="no partition"):
        await store.events(events)  # its writer knew the day; the role calls again
    await store.events(events)
    assert await read_unread(store.database, "alice") == 3
    await retention(store).run()
    assert await tables_of(store, ago(days=100)) == []


async def test_wrong_counters_are_found_and_set_right(store: Store, migrated_database_url: str) -> None:
    await old_and_new(store)
    assert (await verify_inboxes(store.database)).drifts == []
    await store.database.fetch(
        "UPDATE user_state SET unread = unread + 2 WHERE user_id = 'alice';"
        "DELETE FROM user_state WHERE user_id = 'bob';"
        "INSERT INTO user_state (user_id, unread) VALUES ('zoe', 1), ('', 0)"
    )
    found = await verify_inboxes(store.database)
    assert found.drifts == [Drift("alice", 9, 7), Drift("bob", None, 6), Drift("zoe", 1, 0)]
    assert (await verify_inboxes(store.database, user="bob")).drifts == [Drift("bob", None, 6)]
    check = notifyd(migrated_database_url, "inbox", "verify", "--json")
    said, _ = check.communicate(timeout=60)
    assert (check.returncode, [one["user"] for one in json.loads(said)["wrong"]]) == (
        1,
        ["alice", "bob", "zoe"],
    )
    fixing = notifyd(migrated_database_url, "inbox", "verify", "--fix")
    said, errors = fixing.communicate(timeout=60)
    assert (fixing.returncode, said.splitlines()[-1]) == (0, "3 users, 3 wrong"), errors
    assert (await verify_inboxes(store.database)).drifts == []
    assert len(await all_pages(store, "bob")) == 6
    await assert_counters_are_right(store)


async def test_verification_goes_over_many_users_and_stays_right_while_all_is_changed(store: Store) -> None:
    users = [f"user-{n}" for n in range(1200)]
    for start in range(0, 1200, 400):
        await put(store, ago(hours=1), to=users[start : start + 400])
    lock = asyncio.Lock()
    writing = asyncio.gather(*(put_later(store, users[n * 300 : n * 300 + 300], lock) for n in range(4)))
    while not writing.done():
        assert (await verify_inboxes(store.database, fix=True)).drifts == []
    await writing
    assert (await verify_inboxes(store.database)).users == 1200
    await assert_counters_are_right(store)


async def put_later(store: Store, users: list[str], lock: asyncio.Lock) -> None:
    for n in range(5):
        async with lock:
            message_id = await put(store, ago(minutes=n), to=users)
        await mark_ids(store.database, users[n], "read", [message_id], pod="api-1")
