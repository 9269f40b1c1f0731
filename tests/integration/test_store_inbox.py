"""The inbox as a user reads it: in order, whole, without doubles, whoever writes meanwhile."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio

from notifyd.message.envelope import decode
from notifyd.store.batch import MessageRow
from notifyd.store.inbox import TOP, Filter, read_originals, read_page
from notifyd.store.reading import mark_ids, mark_up_to, read_unread
from tests.fixtures.inbox import ago, all_pages, assert_counters_are_right, id_at, put
from tests.fixtures.store import LIMITS, MESSAGES, Store, envelope, open_store, random_id, row

pytestmark = pytest.mark.each_postgres


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def test_a_page_is_of_the_newest_whatever_days_they_are_of(store: Store) -> None:
    # Some every day, then long gaps; of ids with and without a time in them.
    ages_h = [*range(1, 60, 3), 200, 201, 700, 701, 702, 2000, 6000, 9000]
    ids = [
        await put(store, ago(hours=hours), message_id=random_id() if hours % 2 else None) for hours in ages_h
    ]
    await put(store, ago(hours=2), to=["bob"])
    for limit in (1, 7, 100):
        assert await all_pages(store, limit=limit) == ids
    page = await read_page(store.database, "alice", limit=3)
    originals = await read_originals(store.database, page.rows)
    assert [originals[one.message_id][:8] for one in page.rows] == [b'{"from":'] * 3
    await assert_counters_are_right(store)


async def test_what_arrived_far_from_its_day_stands_where_it_arrived(store: Store) -> None:
    new, old = await put(store, ago(hours=2)), await put(store, ago(hours=300))
    late = await put(store, ago(days=40), arrived_at=ago(hours=1))  # sent from a spool after weeks
    # Made with a wrong clock, long before it was sent; the day is of createDateTime here.
    later = await put(store, ago(days=90), message_id=random_id(), arrived_at=ago(hours=30))
    assert await all_pages(store, limit=1) == [late, new, later, old]
    assert await all_pages(store, limit=50) == [late, new, later, old]


async def test_a_scheduled_message_stands_where_it_was_released(store: Store) -> None:
    made = ago(days=6)
    value = envelope(id_at(made), created=made.isoformat(), notBefore=ago(days=1).isoformat())
    await store.messages([row(value, 0, timestamp_ms=int(made.timestamp() * 1000))])
    before, after = await put(store, ago(days=2)), await put(store, ago(hours=1))
    assert await all_pages(store) == [after, before]
    # The sweep puts the same bytes on the topic again when they are due.
    released_ms = int(ago(hours=20).timestamp() * 1000)
    await store.messages([row(value, 3, timestamp_ms=released_ms)])
    ids = await all_pages(store, limit=1)
    assert (ids[0], ids[2], len(ids)) == (after, before, 3)
    await assert_counters_are_right(store)


async def test_pages_hold_while_others_are_inserted_above_and_below(store: Store) -> None:
    ids = [await put(store, ago(minutes=minutes)) for minutes in range(10, 200, 10)]
    first = await read_page(store.database, "alice", limit=5)
    assert first.next is not None
    seen = [one.message_id for one in first.rows]
    await put(store, ago(minutes=1))
    below = await put(store, ago(minutes=125))
    position = first.next
    while position is not None:
        page = await read_page(store.database, "alice", limit=5, before=position)
        seen += [one.message_id for one in page.rows]
        position = page.next
    assert [one for one in seen if one != below] == ids
    assert below in seen


async def test_what_has_the_same_moment_is_neither_lost_nor_doubled_between_pages(store: Store) -> None:
    at = ago(hours=1)
    ids = [await put(store, at) for _ in range(9)]
    assert await all_pages(store, limit=2) == sorted(ids, reverse=True)


async def test_filters_leave_out_what_does_not_fit(store: Store) -> None:
    types = ["order.shipped", "order.paid", ""]
    ids = [await put(store, ago(hours=5 * n + 1), type=types[n % 3]) for n in range(24)]
    await mark_ids(store.database, "alice", "read", ids[:20:2], pod="api-1")
    await mark_ids(store.database, "alice", "archived", ids[:4], pod="api-1")
    assert await all_pages(store, limit=2) == ids[4:]
    assert await all_pages(store, limit=2, only=Filter(is_archived=True)) == ids[:4]
    assert await all_pages(store, limit=2, only=Filter(lacks="read")) == [*ids[5:20:2], *ids[20:]]
    assert await all_pages(store, limit=2, only=Filter(type="order.paid")) == ids[4::3]
    assert await all_pages(store, only=Filter(type="none")) == []
    assert await read_unread(store.database, "alice") == 12
    await assert_counters_are_right(store)


async def test_what_expired_is_left_out_and_counts_no_more(store: Store) -> None:
    stays = await put(store, ago(hours=3))
    read = await put(store, ago(hours=2), ttl="3h")
    await put(store, ago(hours=60), ttl="1h")
    later = await put(store, ago(hours=1), ttl="3h")
    gone = await put(store, ago(hours=1.5), ttl="1h")
    await mark_ids(store.database, "alice", "read", [read], pod="api-1")
    assert await all_pages(store) == [later, read, stays]
    assert await read_unread(store.database, "alice") == 2
    await assert_counters_are_right(store)
    # What expires next is known, and nothing is looked for before.
    [(due,)] = await store.fetch("SELECT first_expiry > now() FROM user_state WHERE user_id = 'alice'")
    assert due
    assert await store.fetch("SELECT count(*) FROM message WHERE id = %(id)s", id=gone) == [(1,)]


async def test_nobody_reads_or_marks_what_is_anothers(store: Store) -> None:
    shared = await put(store, ago(hours=1), to=["alice", "bob"])
    bobs = await put(store, ago(hours=2), to=["bob"])
    assert await all_pages(store) == [shared]
    marked = await mark_ids(store.database, "alice", "read", [shared, bobs, random_id()], pod="api-1")
    assert (marked.ids, marked.unread) == ([shared], 0)
    assert await read_unread(store.database, "bob") == 2
    assert await read_unread(store.database, "nobody") == 0
    assert (await read_page(store.database, "nobody", limit=5)).rows == []
    marked = await mark_ids(store.database, "nobody", "read", [shared], pod="api-1")
    assert (marked.ids, marked.unread) == ([], 0)


@pytest.mark.parametrize("change", ["seen", "read", "archived"])
async def test_all_up_to_a_place_are_marked_and_none_above_it(store: Store, change: str) -> None:
    ids = [await put(store, ago(hours=7 * n + 1)) for n in range(30)]
    page = await read_page(store.database, "alice", limit=10)
    at = page.rows[-1].position
    marked = await mark_up_to(store.database, "alice", change, at, "api-1", limit=8)  # type: ignore[arg-type]
    assert sorted(marked.ids) == sorted(ids[9:17])
    assert marked.next is not None
    rest = await mark_up_to(store.database, "alice", change, at, "api-1", limit=1000)  # type: ignore[arg-type]
    assert (sorted(rest.ids), rest.next) == (sorted(ids[17:]), None)
    assert rest.unread == (30 if change == "seen" else 9)
    again = await mark_up_to(store.database, "alice", change, at, "api-1", limit=1000)  # type: ignore[arg-type]
    assert again.ids == []
    await assert_counters_are_right(store)


async def test_a_mark_keeps_the_first_time_and_shows_in_the_life_of_the_message(store: Store) -> None:
    one = await put(store, ago(hours=1))
    for change in ("seen", "read", "read", "seen"):
        await mark_ids(store.database, "alice", change, [one], pod="api-1")  # type: ignore[arg-type]
    events = await store.fetch("SELECT user_id, stage, pod FROM message_event ORDER BY at")
    assert events == [("alice", "seen", "api-1"), ("alice", "read", "api-1")]
    [(is_in_order,)] = await store.fetch("SELECT seen_at < read_at FROM inbox")
    assert is_in_order


async def test_any_inbox_comes_out_whole_and_in_order_by_pages_of_any_size(store: Store) -> None:
    rng = random.Random(5)
    for n in range(120):
        made = ago(hours=rng.choice([1, 30, 90, 400, 3000]) * rng.random())
        arrived = ago(hours=rng.random() * 80) if n % 4 == 0 else made
        await put(store, made, arrived_at=max(made, arrived), message_id=random_id() if n % 3 else None)
    rows = await store.fetch("SELECT message_id::text FROM inbox ORDER BY arrived_at DESC, message_id DESC")
    expected = [message_id for (message_id,) in rows]
    for limit in (1, 3, 10, 50, 119, 120, 121):
        assert await all_pages(store, limit=limit) == expected
    page = await read_page(store.database, "alice", limit=500, before=TOP)
    assert all(a.position > b.position for a, b in pairwise(page.rows))


@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_counts_for_each_user_what_its_rows_say(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    users = [
        *(f"user-{number}" for number in range(9)),
        "Zoë",
        "zoe",
        "\U0001f389",
        'a"b\\c',
        "{x,y}",
        "NULL",
    ]
    # Of one day, of some, and of many with arrivals far from them: each is counted in its own way.
    spread_d = (0, 1, 6, 20)[seed]
    noon = ago(days=30).replace(hour=12)
    for _ in range(3):
        start = store.at[MESSAGES]
        rows = []
        for offset in range(start, start + 60):
            made = noon - dt.timedelta(days=rng.randint(0, spread_d))
            arrived = made + dt.timedelta(
                days=rng.choice((-2.6, -1.4, 0, 1.4, 1.6, 5)) if spread_d > 1 else 0
            )
            content = {"ttl": rng.choice(("1h", "9h"))} if rng.random() < 0.2 else {}
            value = envelope(
                id_at(made), to=rng.sample(users, rng.randint(1, 4)), created=made.isoformat(), **content
            )
            at_ms = int(arrived.timestamp() * 1000)
            rows.append(
                MessageRow(decode(value, timestamp_ms=at_ms, limits=LIMITS, is_exempt=True), 0, offset)
            )
        assert (await store.messages(rows)).messages == 60
    told = "SELECT user_id, unread, days::text, odd_days::text, first_expiry FROM user_state ORDER BY user_id"
    counted = (
        "SELECT user_id, count(*), range_agg(daterange(day, day + 1))::text,"
        " coalesce(range_agg(daterange(day, day + 1))"
        "          FILTER (WHERE is_odd_arrival(arrived_at, day)), '{}')::text,"
        " min(expires_at) FROM inbox GROUP BY user_id ORDER BY user_id"
    )
    known = await store.fetch(told)
    assert known == await store.fetch(counted)
    assert len(known) == len(users)
    assert any(odd != "{}" for _, _, _, odd, _ in known) == (spread_d > 1)
