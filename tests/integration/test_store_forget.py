"""A user is forgotten: what goes, what stays for others, and what tells of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from notifyd.errors import TransientError
from notifyd.message.ids import new_id
from notifyd.store.forget import count_rows, digest_of, forget, read_forgettings, redact
from notifyd.store.inbox import read_user_state
from notifyd.store.trace import read_life
from notifyd.store.verify import verify_inboxes
from tests.fixtures.inbox import ago, assert_counters_are_right, put
from tests.fixtures.store import Store, envelope, event_of, open_store, row


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


CONTACTS = {
    "alice": {"webhook": [{"url": "https://alice.example", "secret": "whsec_alice"}]},
    "bob": {"webhook": [{"url": "https://bob.example"}]},
}


async def _every_word(store: Store) -> str:
    """Return everything that is stored, as text, but for partition bounds and the audit."""
    tables = ("message", "inbox", "delivery", "message_event", "early_event", "user_state")
    found = [await store.fetch(f"SELECT t::text FROM {table} AS t") for table in tables]
    raws = await store.fetch("SELECT convert_from(raw, 'UTF8') FROM message")
    return "\n".join(text for rows in (*found, raws) for (text,) in rows)


async def test_nothing_stored_names_the_user_and_the_others_keep_theirs(store: Store) -> None:
    alone = await put(store, ago(hours=30), title="for your eyes")
    shared = await put(
        store,
        ago(hours=2),
        to=["alice", "bob"],
        channels=["ws", "webhook"],
        contacts=CONTACTS,
        title="for both",
    )
    await put(store, ago(hours=1), to=["bob"], title="bob's")
    early = row(envelope(), 0)
    found = await store.fetch("SELECT id::text, raw, accepted_at FROM message ORDER BY accepted_at")
    first, both = (row(bytes(raw), 0, timestamp_ms=int(at.timestamp() * 1000)) for _, raw, at in found[:2])
    hook = {"channel": "webhook", "pod": "deliver-1", "attempt": 1}
    await store.events(
        [event_of(first, "acked", attempt=1), event_of(first, "read")],
        [
            event_of(both, "stored", reason="absent"),
            event_of(both, "acked", user="bob"),
            event_of(both, "dead", reason="http_400", detail="HTTP 400", **hook),
            event_of(both, "sent", user="bob", **hook),
        ],
        [event_of(early, "acked")],
    )
    before = await read_life(store.database, shared)
    counted = await count_rows(store.database, "alice")
    assert (counted.inbox, counted.deliveries, counted.events, counted.early_events) == (2, 3, 4, 1)

    done = await forget(store.database, "alice", actor="ops")
    assert done.as_json() == {
        "inbox": 2, "deliveries": 3, "events": 4, "contents": 1, "redacted": 1, "early_events": 1, "later": 0,
    }  # fmt: skip
    words = await _every_word(store)
    for word in ("alice", "for your eyes"):
        assert word not in words
    assert "bob.example" in words

    # The others' part of it is as it was, and so is what became of the message.
    after = await read_life(store.database, shared)
    assert before is not None and after is not None
    assert after.state == before.state == "dead"
    assert [d for d in after.deliveries if d.user == "bob"] == [
        d for d in before.deliveries if d.user == "bob"
    ]
    assert after.envelope is not None
    assert (after.envelope["toUserIds"], after.envelope["content"]["title"]) == (["bob"], "for both")
    assert (await read_user_state(store.database, "bob")).unread == 2
    empty = await read_life(store.database, alone)
    assert empty is not None
    assert (empty.state, empty.envelope) == ("done", None)
    await assert_counters_are_right(store)
    assert (await verify_inboxes(store.database)).drifts == []

    # A double of what was emptied is still known as one, and brings nothing back.
    written = await store.messages([row(first.message.raw, store.at["notifyd.messages"])])
    assert (written.messages, written.doubles) == (0, 1)
    assert "for your eyes" not in await _every_word(store)


async def test_the_audit_tells_who_when_and_how_much_and_nothing_else(store: Store) -> None:
    await put(store, ago(hours=1), title="for your eyes")
    assert await read_forgettings(store.database, "alice") == []
    await forget(store.database, "alice", actor="ops")
    again = await forget(store.database, "alice", actor="ops-2")
    assert not any(again.as_json().values())
    first, second = await read_forgettings(store.database, "alice")
    assert first.begun_at <= (first.ended_at or first.begun_at) <= second.begun_at
    assert (first.actor, second.actor, first.counts["inbox"], second.counts["inbox"]) == (
        "ops",
        "ops-2",
        1,
        0,
    )
    [(audit,)] = await store.fetch("SELECT string_agg(a::text, ' ') FROM forget_audit AS a")
    assert digest_of("alice") in audit
    for word in ("alice", "eyes"):
        assert word not in audit


async def test_what_is_open_ends_for_the_user_and_goes_on_for_the_others(store: Store) -> None:
    alone = await put(store, ago(minutes=5), channels=["webhook"])
    due = ago(hours=-2).isoformat()
    later = await put(store, ago(minutes=4), notBefore=due)
    shared = await put(store, ago(minutes=3), to=["alice", "bob"], channels=["webhook"], contacts=CONTACTS)
    done = await forget(store.database, "alice", actor="ops")
    assert (done.later, done.contents, done.redacted) == (1, 2, 0)
    states = dict(await store.fetch("SELECT id::text, state FROM message"))
    # Nobody releases a message that nobody is to have any more.
    assert states == {alone: "done", later: "done", shared: "pending"}
    life = await read_life(store.database, shared)
    assert life is not None
    assert {d.user: (d.state, d.reason, d.is_final) for d in life.deliveries} == {
        "alice": ("skipped", "forgotten", True),
        "bob": ("pending", None, False),
    }
    # Until it has ended a resend for the other needs the bytes as they were written.
    [(raw,)] = await store.fetch("SELECT raw FROM message WHERE id = %(id)s::uuid", id=shared)
    assert b"alice" in bytes(raw)

    one = row(bytes(raw), 0)
    await store.events([event_of(one, "sent", user="bob", channel="webhook", attempt=1)])
    again = await forget(store.database, "alice", actor="ops")
    assert (again.later, again.redacted, again.deliveries) == (0, 1, 1)
    assert "alice" not in await _every_word(store)


async def test_it_works_beside_a_live_persist_and_no_counter_drifts(store: Store) -> None:
    async def write(count: int) -> None:
        """Messages to both that are done."""
        at = store.at["notifyd.messages"]
        rows = [row(envelope(to=["bob", "alice"]), at + n) for n in range(count)]
        await store.messages(rows)
        await store.events([event_of(one, "acked", user=user) for one in rows for user in ("alice", "bob")])

    await write(100)
    is_over = False

    async def go_on() -> int:
        batches = 0
        while not is_over:
            await write(5)
            batches += 1
        return batches

    writing = asyncio.create_task(go_on())
    await forget(store.database, "alice", actor="ops")
    await forget(store.database, "alice", actor="ops")
    is_over = True
    written = await writing
    assert written > 0
    await assert_counters_are_right(store)
    assert (await read_user_state(store.database, "bob")).unread == 100 + 5 * written
    await forget(store.database, "alice", actor="ops")
    await assert_counters_are_right(store)
    assert "alice" not in await _every_word(store)


async def test_one_that_is_cut_off_is_gone_on_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await put(store, ago(days=number, hours=1))
    days = 0

    def cut(day: str) -> None:
        nonlocal days
        days += 1
        if days == 4:
            raise TransientError("the connection was cut", reason="database_unavailable")

    with pytest.raises(TransientError):
        await forget(store.database, "alice", actor="ops", on_progress=cut)
    await assert_counters_are_right(store)
    await forget(store.database, "alice", actor="ops")
    assert "alice" not in await _every_word(store)
    first, second = await read_forgettings(store.database, "alice")
    assert first.ended_at is None
    assert first.counts["inbox"] + second.counts["inbox"] == 5


async def test_another_s_name_that_looks_alike_is_left_alone(store: Store) -> None:
    for user in ("alice2", "Alice", "ali%", "%"):
        await put(store, ago(hours=1), to=[user])
    for user in ("alice", "ali_e", "%%"):
        done = await forget(store.database, user, actor="ops")
        assert not any(done.as_json().values())


names = st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text)


@given(st.lists(names, min_size=1, max_size=5, unique=True), st.data(), st.booleans())
def test_an_envelope_without_a_recipient_is_otherwise_the_same(
    users: list[str], data: Any, has_contacts: bool
) -> None:
    user = data.draw(st.sampled_from(users))
    contacts = {"contacts": {name: {"email": [f"{name}@x"]} for name in users}} if has_contacts else {}
    value = {
        "from": "orders", "UUID": new_id(), "toUserIds": users, "createBy": "x", "extra": [1.50, user],
        "content": {"version": 1.1, "title": user, "n": 12345678901234567890, **contacts},
    }  # fmt: skip
    redacted = redact(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"), user)
    others = [name for name in users if name != user]
    if not others:
        assert redacted == b""
        return
    expected = {**value, "toUserIds": others}
    if has_contacts:
        kept = {name: contact for name, contact in contacts["contacts"].items() if name != user}
        expected["content"] = {**value["content"], "contacts": kept}  # type: ignore[dict-item]
    assert json.loads(redacted) == expected
    assert redact(redacted, user) == redacted
