"""Events become states: the same whatever the order, and only for deliveries that exist."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifyd.delivery.event import INBOX_STAGES, STAGES, Event, encode_events
from notifyd.delivery.state import DeliveryState, initial, is_final, merge, message_state
from notifyd.message.envelope import new_id
from notifyd.store.batch import EventRecord, MessageRow, Place
from notifyd.store.events import EventBatch, read_events
from notifyd.store.messages import MessageBatch
from tests.fixtures.store import EVENTS, MESSAGES, Store, envelope, event_of, open_store, random_id, row

pytestmark = pytest.mark.each_postgres


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def test_an_ack_makes_the_delivery_and_the_message_final(store: Store) -> None:
    one = row(envelope(), 0)
    await store.messages([one])
    await store.events([event_of(one, "sent", attempt=1)])
    assert await store.fetch("SELECT state, is_final FROM delivery") == [("sent", False)]
    written = await store.events([event_of(one, "acked", attempt=1)])
    assert written.events == 1
    assert await store.fetch("SELECT state, attempts, is_final, next_check_at FROM delivery") == [
        ("acked", 1, True, None)
    ]
    assert await store.fetch("SELECT state FROM message") == [("done",)]
    assert await store.fetch("SELECT stage FROM message_event ORDER BY at, stage DESC") == [
        ("sent",),
        ("acked",),
    ]


@pytest.mark.parametrize("message_id", [new_id(), random_id()], ids=["uuid7", "uuid4"])
async def test_events_before_their_message_wait_for_it(store: Store, message_id: str) -> None:
    one = row(envelope(message_id), 0)
    await store.events([event_of(one, "acked"), event_of(one, "read")])
    assert await store.fetch("SELECT count(*) FROM message") == [(0,)]
    assert await store.fetch("SELECT count(*) FROM message_id") == [(0,)]
    await store.messages([one])
    assert await store.fetch("SELECT state FROM delivery") == [("acked",)]
    assert await store.fetch("SELECT state FROM message") == [("done",)]
    assert await store.fetch("SELECT read_at IS NOT NULL FROM inbox") == [(True,)]
    assert await store.fetch("SELECT unread FROM user_state") == [(0,)]
    assert await store.fetch("SELECT count(*) FROM early_event") == [(0,)]
    assert await store.fetch("SELECT count(*) FROM message_event") == [(2,)]


@pytest.mark.parametrize("message_id", [new_id(), random_id()], ids=["uuid7", "uuid4"])
async def test_an_event_whose_message_is_just_being_written_is_joined(store: Store, message_id: str) -> None:
    """The two transactions overlap, and neither sees the other's rows."""
    one = row(envelope(message_id), 0)
    await store.messages([row(envelope(), 1)])  # makes the partitions
    place = Place(1, MESSAGES, 0, "p")
    rows = read_events(EventRecord(encode_events([event_of(one, "acked")]), 0))
    assert isinstance(rows, list)

    async def write(is_message: bool, is_open: asyncio.Event, may_end: asyncio.Event) -> None:
        async with store.database.transaction() as tx:
            if is_message:
                await (await MessageBatch.laid_out(place, [one])).write(tx)
            else:
                await EventBatch(place, rows).write(tx)
            is_open.set()
            await may_end.wait()

    for is_message_first in (True, False):
        opened, others, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(write(is_message_first, opened, go))
        await opened.wait()
        second = asyncio.create_task(write(not is_message_first, others, go))
        await _until_one_waits(store)
        assert not others.is_set()
        go.set()
        await asyncio.gather(first, second)
        assert await store.fetch("SELECT state FROM delivery WHERE message_id = %(i)s", i=message_id) == [
            ("acked",)
        ]
        for table, key in (
            ("message", "id"),
            ("message_id", "id"),
            ("delivery", "message_id"),
            ("inbox", "message_id"),
            ("message_event", "message_id"),
        ):
            await store.fetch(f"DELETE FROM {table} WHERE {key} = %(i)s", i=message_id)


async def _until_one_waits(store: Store) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while await store.fetch(waiting) == [(0,)]:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_a_forged_ack_makes_no_delivery_before_or_after_the_message(store: Store) -> None:
    one = row(envelope(), 0)
    forged = [event_of(one, stage, user="mallory") for stage in ("acked", "read")]
    await store.events(forged)
    await store.messages([one])
    written = await store.events(forged)
    assert written.events == 0
    for table in ("delivery", "inbox"):
        assert await store.fetch(f"SELECT user_id FROM {table}") == [("alice",)]
    assert await store.fetch("SELECT count(*) FROM message_event") == [(0,)]
    assert await store.fetch("SELECT user_id, unread FROM user_state") == [("alice", 1)]


async def test_an_event_about_other_bytes_of_the_same_id_changes_nothing(store: Store) -> None:
    one = row(envelope(), 0)
    other = event_of(one, "acked", digest="0" * 32)
    await store.events([other])
    await store.messages([one])
    await store.events([other])
    assert await store.fetch("SELECT state FROM delivery") == [("pending",)]
    await store.events([event_of(one, "acked", digest="")])
    assert await store.fetch("SELECT state FROM delivery") == [("acked",)]


@pytest.mark.parametrize("is_early", [True, False])
async def test_an_event_about_other_bytes_does_not_hide_the_same_event_about_ours(
    store: Store, is_early: bool
) -> None:
    one = row(envelope(), 0)
    ours = event_of(one, "acked")
    theirs = event_of(one, "acked", digest="0" * 32)
    if not is_early:
        await store.messages([one])
    await store.events([theirs, ours, theirs])
    if is_early:
        await store.messages([one])
    assert await store.fetch("SELECT state FROM delivery") == [("acked",)]
    assert await store.fetch("SELECT count(*) FROM message_event") == [(1,)]


async def test_read_counts_once_and_the_earliest_time_stays(store: Store) -> None:
    one = row(envelope(), 0)
    await store.messages([one])
    at = one.message.timestamp_ms
    await store.events([event_of(one, "read", at=at + 2000)])
    await store.events([event_of(one, "seen", at=at + 3000), event_of(one, "read", at=at + 1000)])
    [(seen, read)] = await store.fetch(
        "SELECT extract(epoch FROM seen_at) * 1000, extract(epoch FROM read_at) * 1000 FROM inbox"
    )
    assert (int(seen), int(read)) == (at + 1000, at + 1000)
    assert await store.fetch("SELECT unread FROM user_state") == [(0,)]


async def test_faulty_records_are_refused_alone_and_the_sound_events_beside_them_count(store: Store) -> None:
    one = row(envelope(), 0)
    await store.messages([one])
    faulty = [
        b"garbage",
        b'[{"id": "x"}]',
        [event_of(one, "attempting", id="not-a-uuid")],
        [event_of(one, "attempting", reason="a\x00b"), event_of(one, "sent", attempt=3)],
        [event_of(one, "attempting", at=2**62)],
        [event_of(one, "attempting", id="fffff000-0000-7000-8000-000000000000")],
        [event_of(one, "attempting", id=random_id(), day="9999-12-31")],
    ]
    written = await store.events(*faulty, [event_of(one, "acked")])
    assert written.refused == len(faulty)
    assert sorted(one.offset for one in store.refused) == list(range(len(faulty)))
    assert {one.reason for one in store.refused} == {"poison", "date_out_of_range"}
    assert await store.fetch("SELECT state, attempts FROM delivery") == [("acked", 3)]
    assert store.at[EVENTS] == len(faulty) + 1


async def test_the_numbers_of_stages_and_their_ends_are_the_same_in_both_languages(store: Store) -> None:
    stages = [*STAGES, *INBOX_STAGES, "from_the_future"]
    for channel in ("ws", "webhook"):
        for detail in (None, "no_acks", "other"):
            found = await store.fetch(
                "SELECT s, stage_is_final(%(c)s, s, %(d)s) FROM unnest(%(s)s) AS s",
                c=channel,
                d=detail,
                s=stages,
            )
            assert dict(found) == {stage: is_final(channel, stage, detail) for stage in stages}
    ranks = dict(await store.fetch("SELECT s, stage_rank(s) FROM unnest(%(s)s) AS s", s=stages))
    assert ranks == {stage: STAGES.index(stage) + 1 if stage in STAGES else None for stage in stages}


_RUNS = ["", "019aab3e", "019aab3f"]
_LIVES = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from(["alice", "bob", "mallory"]),
            "channel": st.sampled_from(["ws", "webhook"]),
            "stage": st.sampled_from([*STAGES, *INBOX_STAGES, "from_the_future"]),
            "run": st.sampled_from(_RUNS),
            "attempt": st.integers(0, 3),
            "at": st.integers(1_700_000_000_000, 1_700_000_000_003),
            "pod": st.sampled_from(["a", "B", "\u00e9"]),
            "due": st.none() | st.integers(1_700_000_000_000, 1_700_000_000_001),
            "reason": st.none() | st.sampled_from(["timeout", "Timeout"]),
            "detail": st.none() | st.sampled_from(["no_acks", "HTTP 500"]),
            "digest": st.sampled_from(["", "right", "wrong"]),
        }
    ),
    max_size=12,
)


#: `MERGED_LIVES=20000 pytest -k merge_alike tests/integration/test_store_events.py` tries more.
LIVES = int(os.environ.get("MERGED_LIVES", "2000"))


async def test_sql_and_python_merge_alike_in_any_order_and_repetition(store: Store) -> None:
    """Many messages at a time: each example is one, so that the database is asked seldom."""
    examples: list[tuple[list[dict[str, Any]], list[list[int]], int]] = []

    @settings(max_examples=LIVES, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data(), _LIVES)
    def collect(data: st.DataObject, life: list[dict[str, Any]]) -> None:
        # How the events are split into batches, with repetitions; and before which the message comes.
        indexes = data.draw(st.permutations(range(len(life))))
        again = data.draw(st.lists(st.sampled_from(indexes), max_size=4)) if life else []
        order = [*indexes, *again]
        cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=2)))
        bounds = [0, *cuts, len(order)]
        batches = [order[a:b] for a, b in itertools.pairwise(bounds)]
        examples.append((life, batches, data.draw(st.integers(0, len(batches)))))

    collect()
    rows = [
        row(
            envelope(
                random_id() if n % 3 == 0 else new_id(), to=["alice", "bob"], channels=["ws", "webhook"]
            ),
            n,
        )
        for n in range(len(examples))
    ]
    lives = [
        [_event(one, fields) for fields in life] for one, (life, _, _) in zip(rows, examples, strict=True)
    ]
    for step in range(4):
        due = [one for one, (_, _, when) in zip(rows, examples, strict=True) if when == step]
        if due:
            # A batch must begin where the last ended; the messages' own offsets are free to be anything.
            due = [MessageRow(one.message, 0, store.at[MESSAGES] + n) for n, one in enumerate(due)]
            await store.messages(due)
        events = [
            life[index]
            for life, (_, batches, _) in zip(lives, examples, strict=True)
            for index in (batches[step] if step < len(batches) else [])
        ]
        await store.events(events[::2], events[1::2])
    assert store.refused == []
    await _compare(store, rows, lives)


def _event(one: MessageRow, fields: dict[str, Any]) -> Event:
    digests = {"": "", "right": one.message.digest, "wrong": "0" * 32}
    fields = {**fields, "digest": digests[fields["digest"]]}
    return Event(id=one.message.id, day=one.message.day.isoformat(), **fields)


async def _compare(store: Store, rows: Sequence[MessageRow], lives: Sequence[Sequence[Event]]) -> None:
    found = {
        (i, u, c): rest
        for i, u, c, *rest in await store.fetch(
            "SELECT message_id::text, user_id, channel, state, run, attempt, attempts,"
            " (extract(epoch FROM at) * 1000)::bigint, pod, (extract(epoch FROM due_at) * 1000)::bigint,"
            " reason, detail, is_final FROM delivery"
        )
    }
    inbox = {
        (i, u): (seen, read)
        for i, u, seen, read in await store.fetch(
            "SELECT message_id::text, user_id, (extract(epoch FROM seen_at) * 1000)::bigint,"
            " (extract(epoch FROM read_at) * 1000)::bigint FROM inbox"
        )
    }
    states = dict(await store.fetch("SELECT id::text, state FROM message"))
    unread: dict[str, int] = {"alice": 0, "bob": 0}
    for one, life in zip(rows, lives, strict=True):
        valid = [event for event in life if event.digest in ("", one.message.digest)]
        ends = []
        for user in ("alice", "bob"):
            for channel in ("ws", "webhook"):
                state: DeliveryState | None = initial(
                    at_ms=one.message.timestamp_ms, pod="persist-1", is_scheduled=False
                )
                for event in valid:
                    if (event.user, event.channel) == (user, channel):
                        state = merge(state, event)
                assert state is not None
                assert found.pop((one.message.id, user, channel)) == [
                    state.stage,
                    state.run,
                    state.attempt,
                    state.attempts,
                    state.at_ms,
                    state.pod,
                    state.due_ms,
                    state.reason,
                    state.detail,
                    is_final(channel, state.stage, state.detail),
                ]
                ends.append((channel, state.stage, state.detail))
            marks = [event for event in valid if event.user == user and event.stage in INBOX_STAGES]
            read = min((event.at for event in marks if event.stage == "read"), default=None)
            assert inbox.pop((one.message.id, user)) == (min((e.at for e in marks), default=None), read)
            unread[user] += read is None
        assert states[one.message.id] == message_state(ends)
    assert found == inbox == {}
    assert dict(await store.fetch("SELECT user_id, unread FROM user_state")) == unread
