"""Messages become rows: once, byte for byte, whatever comes how often."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import pytest_asyncio

from notifyd.errors import TransientError
from notifyd.message.envelope import new_id
from notifyd.store.batch import Refused
from tests.fixtures.store import MESSAGES, Store, envelope, open_store, random_id, row

pytestmark = pytest.mark.each_postgres


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def test_a_message_its_deliveries_its_inbox_rows_and_the_unread_counters_are_there(
    store: Store,
) -> None:
    value = envelope(to=["alice", "bob"], channels=["ws", "webhook"])
    written = await store.messages([row(value, 0)])
    assert (written.status, written.mark, written.messages) == ("written", 1, 1)
    [(raw, state)] = await store.fetch("SELECT raw, state FROM message")
    assert (bytes(raw), state) == (value, "pending")
    assert await store.fetch("SELECT user_id, channel, state FROM delivery ORDER BY 1, 2") == [
        (user, channel, "pending") for user in ("alice", "bob") for channel in ("webhook", "ws")
    ]
    assert await store.fetch("SELECT user_id, kafka_offset FROM inbox ORDER BY 1") == [
        ("alice", 0),
        ("bob", 0),
    ]
    assert await store.fetch("SELECT user_id, unread FROM user_state ORDER BY 1") == [
        ("alice", 1),
        ("bob", 1),
    ]


@pytest.mark.parametrize(
    "value",
    [
        b" \n" + envelope() + b"\t\r\n",
        envelope(title="caf\u00e9 \U0001f600 \\ ' \" %s %(x)s"),
        envelope().replace(b"Hi", "h\u00e9 \U0001f600 ' \\u0041 $1".encode()),
        envelope(body="x" * 200_000),
    ],
)
async def test_the_original_is_kept_byte_for_byte(store: Store, value: bytes) -> None:
    await store.messages([row(value, 0)])
    [(raw,)] = await store.fetch("SELECT raw FROM message")
    assert bytes(raw) == value


async def test_the_same_bytes_again_are_silently_done(store: Store) -> None:
    for value in (envelope(), envelope(random_id())):
        at = store.at[MESSAGES]
        written = await store.messages([row(value, at), row(value, at + 1)])
        assert (written.messages, written.doubles, written.refused) == (1, 1, 0)
        written = await store.messages([row(value, at + 2)])
        assert (written.messages, written.doubles, written.refused) == (0, 1, 0)
    assert await store.fetch("SELECT unread FROM user_state") == [(2,)]
    assert store.refused == []


@pytest.mark.parametrize("message_id", [new_id(), random_id()], ids=["uuid7", "uuid4"])
@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_the_same_id_with_other_bytes_is_refused_and_the_first_stays(
    store: Store, message_id: str, is_one_batch: bool
) -> None:
    first = envelope(message_id, title="first")
    # Of an id that carries no time, the other copy may even be of another day.
    yesterday = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 86_400))
    rows = [
        row(first, 0),
        row(envelope(message_id, title="second", created=yesterday), 1),
        row(envelope(title="other"), 2),
    ]
    for batch in [rows] if is_one_batch else [rows[:1], rows[1:]]:
        await store.messages(batch)
    assert [(one.offset, one.reason) for one in store.refused] == [(1, "id_conflict")]
    assert store.refused[0].row is rows[1]
    kept = await store.fetch("SELECT raw FROM message ORDER BY kafka_offset")
    assert [bytes(raw) for (raw,) in kept] == [rows[0].message.raw, rows[2].message.raw]
    assert store.at[MESSAGES] == 3


async def test_a_counter_gives_back_with_the_next_message_what_it_had_in_reserve(store: Store) -> None:
    rooms = "SELECT user_id, unread, length(room) FROM user_state ORDER BY 1"
    await store.messages([row(envelope(to=["alice", "bob"]), 0)])
    assert await store.fetch(rooms) == [("alice", 1, 100), ("bob", 1, 100)]
    await store.messages([row(envelope(to=["alice"]), 1)])
    assert await store.fetch(rooms) == [("alice", 2, None), ("bob", 1, 100)]
    # A message that waited for its time is counted by a statement of its own.
    now_ms = int(time.time() * 1000)
    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ms / 1000 + 3600))
    later = envelope(to=["bob"], notBefore=due)
    await store.messages([row(later, 2, timestamp_ms=now_ms)])
    assert await store.fetch(rooms) == [("alice", 2, None), ("bob", 1, 100)]
    await store.messages([row(later, 3, timestamp_ms=now_ms + 3_601_000)])
    assert await store.fetch(rooms) == [("alice", 2, None), ("bob", 2, None)]


async def test_a_batch_below_the_mark_changes_nothing_and_one_beyond_it_is_sent_back(store: Store) -> None:
    rows = [row(envelope(), offset) for offset in range(4)]
    await store.messages(rows[:2])
    persist, refuse = store.persist, store.on_refused
    replayed = await persist.write_messages(MESSAGES, 0, 0, 2, rows[:2], refuse)
    assert (replayed.status, replayed.mark) == ("replayed", 2)
    behind = await persist.write_messages(MESSAGES, 0, 3, 4, rows[3:], refuse)
    assert (behind.status, behind.mark, behind.is_gap) == ("behind", 2, True)
    assert await store.fetch("SELECT count(*) FROM message") == [(2,)]
    # A batch that begins below the mark is new from the mark on.
    written = await persist.write_messages(MESSAGES, 0, 1, 4, rows[1:], refuse)
    assert (written.status, written.mark, written.messages, written.doubles) == ("written", 4, 2, 0)
    assert await persist.start_offsets(MESSAGES, [0, 1]) == {0: 4}


async def test_the_mark_moves_over_offsets_without_messages(store: Store) -> None:
    written = await store.persist.write_messages(MESSAGES, 0, 10, 25, [], store.on_refused)
    assert (written.status, written.mark) == ("written", 25)
    assert await store.fetch("SELECT first_offset, next_offset FROM partition_mark") == [(10, 25)]


async def test_a_row_that_the_database_cannot_take_is_refused_alone(store: Store) -> None:
    rows = [row(envelope(), offset) for offset in range(9)]
    for poisoned in (4, 6):  # no envelope can be dated so; the store must not count on it
        msgspec.structs.force_setattr(rows[poisoned].message, "created_at_ms", 2**62)
    written = await store.messages(rows)
    assert (written.messages, written.refused, written.mark) == (7, 2, 9)
    assert [(one.offset, one.reason) for one in store.refused] == [(4, "poison"), (6, "poison")]


async def test_days_far_away_make_no_partitions(store: Store) -> None:
    far_ms = int(time.time() * 1000) + 400 * 86_400_000
    far = envelope(random_id(), created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(far_ms / 1000)))
    before = await store.fetch("SELECT count(*) FROM pg_inherits")
    await store.messages([row(far, 0, timestamp_ms=far_ms), row(envelope(), 1)])
    assert [(one.offset, one.reason) for one in store.refused] == [(0, "date_out_of_range")]
    assert await store.fetch("SELECT count(*) FROM pg_inherits") == before


async def test_partitions_of_a_day_that_retention_dropped_are_made_again(store: Store) -> None:
    await store.messages([row(envelope(), 0)])
    for table in ("message", "inbox", "delivery", "message_event"):
        names = await store.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %(t)s::regclass", t=table
        )
        for (name,) in names:
            await store.fetch(f"DROP TABLE {name}")
    late = [row(envelope(), 1)]
    with pytest.raises(TransientError):
        await store.messages(late)
    assert (await store.messages(late)).messages == 1


async def test_what_is_refused_is_safe_before_anything_is_committed(store: Store) -> None:
    message_id = new_id()
    rows = [row(envelope(message_id, title=title), offset) for offset, title in enumerate("ab")]

    async def on_refused(refused: Sequence[Refused]) -> None:
        assert await store.fetch("SELECT count(*) FROM message") == [(0,)]
        raise RuntimeError("the dead-letter queue is away")

    with pytest.raises(RuntimeError):
        await store.persist.write_messages(MESSAGES, 0, 0, 2, rows, on_refused)
    assert await store.persist.start_offsets(MESSAGES, [0]) == {}
    assert (await store.messages(rows)).messages == 1


async def test_a_message_for_later_waits_and_its_release_takes_the_position(store: Store) -> None:
    now_ms = int(time.time() * 1000)
    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ms / 1000 + 3600))
    value = envelope(notBefore=due)
    await store.messages([row(value, 0, timestamp_ms=now_ms)])
    assert await store.fetch("SELECT state FROM message") == [("scheduled",)]
    assert await store.fetch(
        "SELECT d.state, d.next_check_at = m.due_at FROM delivery d JOIN message m ON m.id = d.message_id"
    ) == [("scheduled", True)]
    assert await store.fetch("SELECT count(*) FROM inbox") == [(0,)]
    # A double before its time releases nothing, the record at its time does, a second one nothing more.
    await store.messages([row(value, 1, timestamp_ms=now_ms + 1000)])
    assert await store.fetch("SELECT count(*) FROM inbox") == [(0,)]
    for offset in (7, 8):
        await store.messages([row(value, offset, timestamp_ms=now_ms + 3_601_000)])
        assert await store.fetch("SELECT kafka_offset FROM inbox") == [(7,)]
        assert await store.fetch("SELECT state FROM message") == [("pending",)]
        assert await store.fetch("SELECT state FROM delivery") == [("pending",)]
        assert await store.fetch("SELECT unread FROM user_state") == [(1,)]
