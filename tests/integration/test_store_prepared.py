"""Statements that a connection's server plans once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from notifyd.delivery.overdue import Overdue
from notifyd.errors import NotifydError
from notifyd.store.inbox import read_originals, read_page, read_user_state
from notifyd.store.sql import prepared, query
from notifyd.store.sweep import SweepStore
from tests.fixtures.inbox import ago, put
from tests.fixtures.store import Store, envelope, event_of, open_database, row

pytestmark = pytest.mark.each_postgres

_PLANS = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = %(name)s"
_UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = %(name)s"

_HOLD = "pg_advisory_xact_lock(4711)"
_WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    # One connection, so that each statement meets what the one before it left there.
    async with open_database(migrated_database_url, database_pool_size=1) as database:
        yield Store(database)


async def test_a_page_is_read_by_a_plan_made_once(store: Store) -> None:
    for number in range(3):
        await put(store, ago(minutes=number))
        page = await read_page(store.database, "alice", limit=10)
        assert len(page.rows) == len(await read_originals(store.database, page.rows)) == number + 1
    for name in ("read_user_state", "read_inbox", "read_originals"):
        assert await store.database.fetch(_PLANS, {"name": name}) == [(3, 0)], name


async def test_the_sweep_finds_what_is_due_by_a_plan_made_once_for_its_limit(store: Store) -> None:
    for number in range(5):
        await put(store, ago(minutes=number))
    await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
    sweep, horizon_ms = SweepStore(store.database), int(time.time() * 1000)
    found = [len(await sweep.claim_due(horizon_ms, limit=limit, lease_s=60.0)) for limit in (2, 1, 2, 2)]
    assert found == [2, 1, 2, 0]
    assert await store.database.fetch(_PLANS, {"name": "claim_due_limit_2"}) == [(3, 0)]
    assert await store.database.fetch(_PLANS, {"name": "claim_due_limit_1"}) == [(1, 0)]


async def test_a_plan_sees_days_that_came_after_it(store: Store) -> None:
    new = await put(store, ago(minutes=1))
    assert [row.message_id for row in (await read_page(store.database, "alice", limit=10)).rows] == [new]
    day = f"inbox_p{ago(days=9):%Y%m%d}"
    assert await store.fetch("SELECT to_regclass(%(day)s)", day=day) == [(None,)]
    old = await put(store, ago(days=9))
    assert [row.message_id for row in (await read_page(store.database, "alice", limit=10)).rows] == [new, old]


async def test_what_fails_leaves_the_statement_usable(store: Store) -> None:
    await put(store, ago(minutes=1))
    with pytest.raises(NotifydError, match="invalid input syntax for type date"):
        await store.database.fetch(prepared("read_originals"), {"ids": [], "days": ["none"], "day_set": []})
    with pytest.raises(NotifydError):
        async with store.database.transaction() as tx:
            await tx.fetch("SELECT 1 / 0")
    async with store.database.transaction(is_snapshot=True) as tx:
        state = await read_user_state(tx, "alice")
        assert state.unread == 1
    assert (await read_user_state(store.database, "alice")) == state


async def test_each_connection_makes_its_own(migrated_database_url: str) -> None:
    async with (
        open_database(migrated_database_url, database_pool_size=2) as database,
        database.transaction() as one,
        database.transaction() as other,
    ):
        for tx in (one, other):
            assert (await read_user_state(tx, "alice")).unread == 0
            assert await tx.fetch(_PLANS, {"name": "read_user_state"}) == [(1, 0)]


async def test_a_row_that_moved_while_it_was_looked_for_is_leased_from_its_new_place(
    migrated_database_url: str,
) -> None:
    async with open_database(migrated_database_url, database_pool_size=3) as database:
        store = Store(database)
        moved, gone = [await put(store, ago(minutes=minutes)) for minutes in (2, 1)]
        await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
        # The statement itself, held between its snapshot and its locks by what somebody else has.
        claim = query("claim_due").replace("WHERE", f"WHERE {_HOLD} IS NOT NULL AND", 1)
        async with database.transaction() as tx, database.transaction() as other:
            await other.fetch(f"SELECT {_HOLD}")
            claiming = asyncio.create_task(tx.fetch(claim, {"horizon": int(time.time() * 1000), "limit": 10}))
            while not await store.fetch(_WAITING):
                assert not claiming.done()
                await asyncio.sleep(0.01)
            for message_id, change in ((moved, "state = 'attempting'"), (gone, "next_check_at = NULL")):
                await other.fetch(
                    f"UPDATE delivery SET {change} WHERE message_id = %(id)s", {"id": message_id}
                )
            await other.commit()
            [(place, day)] = await claiming
            params = {"places": [place], "days": [day], "day_set": [day], "lease_s": 60.0}
            leased = await tx.fetch(query("lease_due"), params)
            assert [(row[0], row[5]) for row in leased] == [(moved, "attempting")]


async def test_a_lease_is_written_beside_the_row_and_into_no_index(store: Store) -> None:
    await put(store, ago(minutes=1))
    await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
    async with store.database.transaction() as tx:
        claim = prepared("claim_due", limit=1)
        [(place, day)] = await tx.fetch(claim, {"horizon": int(time.time() * 1000)})
        params = {"places": [place], "days": [day], "day_set": [day], "lease_s": 60.0}
        table = {"name": f"delivery_p{day.replace('-', '')}"}
        [(updates, within_page)] = await tx.fetch(_UPDATES, table)
        assert len(await tx.fetch(query("lease_due"), params)) == 1
        assert await tx.fetch(_UPDATES, table) == [(updates + 1, within_page + 1)]


async def test_what_was_leased_is_found_again_once_the_lease_is_over_or_given_up(store: Store) -> None:
    await put(store, ago(minutes=1))
    await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
    sweep = SweepStore(store.database)

    async def claim(lease_s: float) -> list[Overdue]:
        # Whole milliseconds would leave out what became due in this one.
        return await sweep.claim_due(int(time.time() * 1000) + 1000, limit=10, lease_s=lease_s)

    [first] = await claim(0.0)
    # Whoever had it is dead: the next one takes it over.
    assert await claim(60.0) == [first]
    assert await claim(60.0) == []
    await sweep.postpone({first: 0.0})
    assert await claim(60.0) == [first]
    await sweep.begin_resends({first: "run"})
    assert await claim(60.0) == []
    await sweep.count_resends({first: "run"}, check_after_s=0.0)
    [again] = await claim(60.0)
    assert (again.resends, again.pending_run) == (1, None)


async def test_an_event_ends_the_lease_of_what_it_tells_of(store: Store) -> None:
    one = row(envelope(), 0)
    await store.messages([one])
    await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
    sweep = SweepStore(store.database)
    [found] = await sweep.claim_due(int(time.time() * 1000), limit=10, lease_s=600.0)
    await store.events([event_of(one, "sent")])
    await store.fetch("UPDATE delivery SET next_check_at = now() - interval '1 second'")
    [again] = await sweep.claim_due(int(time.time() * 1000), limit=10, lease_s=600.0)
    assert (again.id, found.state, again.state) == (one.message.id, "pending", "sent")
