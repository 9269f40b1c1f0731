"""What an operator looks for over all deliveries: a user's, the stuck ones, the slowest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest_asyncio

from notifyd.message.envelope import decode
from notifyd.store.batch import MessageRow
from notifyd.store.deliveries import find_slowest, find_stuck, read_user_messages
from notifyd.store.sql import query
from tests.fixtures.inbox import ago, id_at
from tests.fixtures.processes import run_notifyd
from tests.fixtures.store import LIMITS, Store, envelope, event_of, open_store


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def _put(store: Store, minutes: float, **content: Any) -> MessageRow:
    """Store a message for alice and bob that was accepted so long ago."""
    at = ago(minutes=minutes)
    value = envelope(id_at(at), to=["alice", "bob"], created=at.isoformat(), **content)
    message = decode(value, timestamp_ms=int(at.timestamp() * 1000), limits=LIMITS)
    one = MessageRow(message, 0, store.at["notifyd.messages"])
    assert (await store.messages([one])).messages == 1
    return one


async def test_stuck_is_what_nobody_has_spoken_of_for_long_and_nothing_else(store: Store) -> None:
    old = await _put(store, 60, channels=["ws", "stub", "email"])
    newer = await _put(store, 30, channels=["stub"])
    fresh = await _put(store, 1, channels=["stub"])
    later = await _put(store, 50, channels=["stub"], notBefore=ago(hours=-1).isoformat())
    at = old.message.timestamp_ms
    hook = {"user": "bob", "channel": "stub", "attempt": 1}
    await store.events(
        [
            event_of(old, "sent", user="alice"),  # the client has not acknowledged: that is not stuck
            event_of(old, "acked", user="bob"),
            event_of(old, "sent", user="alice", channel="stub"),
            event_of(old, "retry_wait", due=at + 7_200_000, **hook),  # due in an hour
            event_of(newer, "retry_wait", due=at + 3_000_000, **hook),  # due ten minutes ago
            event_of(old, "skipped", user="alice", channel="email"),
        ]
    )
    found = await find_stuck(store.database, silent_s=300, limit=10)
    assert not found.is_partial
    assert [(one.message_id, one.user, one.channel, one.state) for one in found.deliveries] == [
        (old.message.id, "bob", "email", "pending"),
        (newer.message.id, "alice", "stub", "pending"),
        (newer.message.id, "bob", "stub", "retry_wait"),
    ]
    assert [one.waits_for.what for one in found.deliveries if one.waits_for] == [
        "an outcome, or the sweep to look after it",
        "an outcome, or the sweep to look after it",
        "attempt 2",
    ]
    assert len((await find_stuck(store.database, silent_s=300, limit=2)).deliveries) == 2
    assert (await find_stuck(store.database, silent_s=7200, limit=10)).deliveries == []
    assert (await find_stuck(store.database, silent_s=300, limit=10, scan=2)).is_partial
    ids = {one.message_id for one in found.deliveries}
    assert not ids & {fresh.message.id, later.message.id}


async def test_slowest_counts_from_when_a_delivery_was_due_to_its_first_success(store: Store) -> None:
    first = await _put(store, 40, channels=["ws", "stub"])
    second = await _put(store, 20, channels=["ws"])
    at, at_2 = first.message.timestamp_ms, second.message.timestamp_ms
    hook = {"user": "bob", "channel": "stub"}
    await store.events(
        [
            event_of(first, "sent", user="alice", at=at + 20),
            event_of(first, "acked", user="alice", at=at + 900_000),  # the user's time, not ours
            event_of(first, "retry_wait", at=at + 50, attempt=1, due=at + 5050, **hook),
            event_of(first, "sent", at=at + 5100, attempt=2, **hook),
            event_of(first, "dead", user="alice", channel="stub", at=at + 700, attempt=1, reason="stub_dead"),
            event_of(second, "stored", user="bob", at=at_2 + 5000, reason="absent"),
            event_of(second, "acked", user="bob", at=at_2 + 500_000),
            event_of(second, "sent", user="alice", at=at_2 + 30),
        ]
    )
    found = await find_slowest(store.database, since=ago(hours=1), limit=10)
    assert not found.is_partial
    assert [
        (one.message_id, one.user, one.channel, one.state, one.as_json()["took_s"])
        for one in found.deliveries
    ] == [
        (first.message.id, "bob", "stub", "sent", 5.1),
        (first.message.id, "alice", "stub", "dead", 0.7),
        (second.message.id, "alice", "ws", "sent", 0.03),
        (first.message.id, "alice", "ws", "acked", 0.02),
    ]
    later = await find_slowest(store.database, since=ago(minutes=30), limit=1)
    assert [one.message_id for one in later.deliveries] == [second.message.id]
    assert (await find_slowest(store.database, since=ago(hours=1), limit=1, scan=1)).is_partial
    assert (await find_slowest(store.database, since=ago(minutes=1), limit=1)).deliveries == []


async def test_a_user_s_messages_tell_what_became_of_them_for_this_user(store: Store) -> None:
    ids = [(await _put(store, minutes, channels=["ws", "stub"])).message.id for minutes in (3, 2, 1)]
    messages, has_more = await read_user_messages(store.database, "alice", limit=2, budget_s=5)
    assert has_more
    assert [one.message.id for one in messages] == [ids[2], ids[1]]
    assert [[(d.user, d.channel) for d in one.deliveries] for one in messages] == [
        [("alice", "stub"), ("alice", "ws")]
    ] * 2
    assert await read_user_messages(store.database, "nobody", limit=2, budget_s=5) == ([], False)


async def test_the_command_lists_them_a_line_each(store: Store, migrated_database_url: str) -> None:
    one = await _put(store, 30, channels=["ws", "stub"])
    at = one.message.timestamp_ms
    await store.events([event_of(one, "sent", channel="stub", at=at + 1500, attempt=1)])

    async def run(*arguments: str) -> list[str]:
        env = {"NOTIFYD_DATABASE_URL": migrated_database_url}
        done = await asyncio.to_thread(run_notifyd, "trace", *arguments, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    [line] = await run("--user", "alice", "--json")
    told = json.loads(line)
    assert (told["id"], told["from"]) == (one.message.id, "orders")
    assert [(d["channel"], d["state"]) for d in told["deliveries"]] == [("stub", "sent"), ("ws", "pending")]
    [line] = await run("--slowest", "--json")
    assert (json.loads(line)["id"], json.loads(line)["took_s"]) == (one.message.id, 1.5)
    lines = [json.loads(line) for line in await run("--stuck", "--older-than", "20m", "--json")]
    assert [(d["user"], d["channel"]) for d in lines] == [("alice", "ws"), ("bob", "stub"), ("bob", "ws")]
    assert len(await run("--stuck", "--limit", "1")) == 1
    assert await run("--stuck", "--older-than", "1h") == []
    for arguments in (["--user", "alice"], ["--slowest"], ["--stuck"]):
        assert one.message.id in (await run(*arguments))[0]


async def test_none_of_these_reads_a_table_as_a_whole(store: Store) -> None:
    await store.fetch("SELECT ensure_day(current_date - n) FROM generate_series(0, 2) AS n")
    stored = [day.isoformat() for (day,) in await store.fetch(query("read_stored_days"))]  # all are filled
    await store.fetch(
        """INSERT INTO message (id, day, digest, state, incarnation_id, kafka_partition, kafka_offset,
                                accepted_at, persisted_by, created_at, sender, created_by, type, raw)
           SELECT gen_random_uuid(), day, '', 'done', 1, 0, n, day - n * interval '10 seconds', '', now(),
                  '', '', '', ''
             FROM unnest(%(days)s::date[]) AS day, generate_series(1, 3000) AS n""",
        days=stored,
    )
    await store.fetch(
        """INSERT INTO delivery (message_id, user_id, channel, day, state, at, pod, is_final, next_check_at)
           SELECT id, 'u' || mod(kafka_offset, 100), 'stub', day, 'sent', accepted_at, '',
                  mod(kafka_offset, 90) > 0, CASE WHEN mod(kafka_offset, 90) = 0 THEN now() END
             FROM message"""
    )
    await store.fetch(
        """INSERT INTO message_event (message_id, event_key, day, user_id, channel, stage, run, attempt, at,
                                      pod)
           SELECT message_id, gen_random_uuid(), day, user_id, channel, state, '', 1, at, '' FROM delivery"""
    )
    await store.fetch("ANALYZE message, delivery, message_event")
    [(day, message_id)] = await store.fetch("SELECT day::text, id::text FROM message LIMIT 1")

    async def plan_of(name: str, params: Mapping[str, object]) -> str:
        rows = await store.database.fetch("EXPLAIN " + query(name), params)
        return "\n".join(line for (line,) in rows)

    stuck = await plan_of("find_stuck", {"silent_s": 300, "limit": 20, "scan": 500, "ahead_s": 900})
    assert "next_check_at_idx" in stuck
    oldest = await plan_of("find_oldest_open", {"scan": 500})
    assert "next_check_at_idx" in oldest
    days = {"since": ago(hours=1).isoformat(), "first_day": ago(days=1).date().isoformat()}
    slowest = await plan_of("find_slowest", {**days, "limit": 20, "scan": 500})
    assert "accepted_at_id_idx" in slowest
    of_user = await plan_of(
        "read_deliveries_of_user", {"ids": [message_id], "days": [day], "day_set": [day], "user": "u1"}
    )
    for plan in (stuck, oldest, slowest, of_user):
        assert "Seq Scan on delivery" not in plan, plan
        assert "Seq Scan on message" not in plan, plan
