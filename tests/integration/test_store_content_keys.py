"""Messages encrypted at rest: by every reader, over a rotation, and without the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from notifyd.delivery.overdue import Overdue
from notifyd.roles.past import StoredMessages
from notifyd.settings import Settings
from notifyd.store.cipher import ContentKeyError, key_of
from notifyd.store.forget import forget
from notifyd.store.inbox import read_originals, read_page
from notifyd.store.past import read_past
from notifyd.store.rotation import count_keys, rotate
from notifyd.store.sweep import SweepStore
from notifyd.store.trace import read_life
from tests.fixtures.inbox import ago, put
from tests.fixtures.processes import run_notifyd
from tests.fixtures.roles import surroundings
from tests.fixtures.store import INCARNATION, MESSAGES, Store, envelope, open_database, row

K1 = "k1:" + "MTEx" * 10 + "MTE="
K2 = "k2:" + "MjIy" * 10 + "MjI="
WRONG_K1 = "k1:" + "OTk5" * 10 + "OTk="


@asynccontextmanager
async def store_with(url: str, keys: str | None) -> AsyncIterator[Store]:
    async with open_database(url, content_keys=keys) as database:
        yield Store(database)


async def _stored(store: Store) -> dict[str, bytes]:
    return {i: bytes(raw) for i, raw in await store.fetch("SELECT id::text, raw FROM message")}


def _overdue(message_id: str, day: str) -> Overdue:
    return Overdue(
        id=message_id, day=day, digest="", user="alice", channel="stub", state="pending", run="", attempt=0,
        at_ms=0, resends=0, pending_run=None, incarnation=INCARNATION, partition=0, offset=0,
        accepted_at_ms=0, expires_at_ms=None,
    )  # fmt: skip


async def _read_everywhere(store: Store, message_id: str) -> list[bytes]:
    """Read one message in each way there is: the life, the inbox, the past, a resend."""
    database = store.database
    [(day,)] = await store.fetch("SELECT day::text FROM message WHERE id = %(id)s::uuid", id=message_id)
    life = await read_life(database, message_id)
    page = await read_page(database, "alice", limit=50)
    in_inbox = await read_originals(database, [one for one in page.rows if one.message_id == message_id])
    past = await read_past(database, INCARNATION, MESSAGES, "alice", {0: (0, 1 << 40)}, 100)
    resend = await SweepStore(database).originals([_overdue(message_id, day)])
    assert life is not None
    in_past = [raw for *_, raw in past.rows if message_id.encode() in raw]
    return [json.dumps(life.envelope).encode(), in_inbox[message_id], *in_past, resend[message_id].raw]


async def test_the_disk_holds_nothing_that_was_said_and_every_reader_has_it(
    migrated_database_url: str,
) -> None:
    async with store_with(migrated_database_url, K1) as store:
        message_id = await put(store, ago(hours=1), title="for your eyes")
        value = envelope(title="for your eyes")
        await store.messages([row(value, store.at[MESSAGES])])
        for stored in (await _stored(store)).values():
            assert key_of(stored) == "k1"
            assert b"eyes" not in stored
        found = await _read_everywhere(store, message_id)
        assert len(found) == 4
        assert all(b"for your eyes" in raw for raw in found)
        assert value in found or value in await _read_everywhere(store, json.loads(value)["UUID"])
        # The same bytes again are a double, others a conflict, for that is judged by the digest.
        written = await store.messages([row(value, store.at[MESSAGES])])
        assert (written.messages, written.doubles) == (0, 1)


async def test_a_scheduled_message_is_released_as_it_was_written(migrated_database_url: str) -> None:
    async with store_with(migrated_database_url, K1) as store:
        at = ago(minutes=10)
        message_id = await put(store, at, notBefore=ago(minutes=5).isoformat(), title="for your eyes")
        [(found, original)] = (await SweepStore(store.database).claim_scheduled(limit=10, lease_s=1)).items()
        assert found == message_id
        assert json.loads(original.raw)["content"]["title"] == "for your eyes"


async def test_a_rotation_with_data_in_it_leaves_the_old_key_without_use(migrated_database_url: str) -> None:
    async with store_with(migrated_database_url, None) as store:
        plain = [await put(store, ago(hours=n + 1), title=f"plain {n}") for n in range(3)]
        at = store.at[MESSAGES]
    async with store_with(migrated_database_url, K1) as store:
        store.at[MESSAGES] = at
        old = [await put(store, ago(days=n + 1), title=f"old {n}") for n in range(70)]
        at = store.at[MESSAGES]
        assert await count_keys(store.database) == {None: 3, "k1": 70}
    async with store_with(migrated_database_url, f"{K2},{K1}") as store:
        store.at[MESSAGES] = at
        new = await put(store, ago(minutes=1), title="new")
        assert len(await _read_everywhere(store, old[5])) == 4
        is_over = False

        async def go_on() -> None:
            while not is_over:
                await put(store, ago(minutes=2), title="meanwhile")

        writing = asyncio.create_task(go_on())
        done = await rotate(store.database)
        is_over = True
        await writing
        assert (done.sealed, dict(done.left)) == (73, {})
        assert set(await count_keys(store.database)) == {"k2"}
        assert (await rotate(store.database)).sealed == 0
    async with store_with(migrated_database_url, K2) as store:
        for message_id, title in ((plain[0], b"plain 0"), (old[69], b"old 69"), (new, b"new")):
            life = await read_life(store.database, message_id)
            assert life is not None and life.envelope is not None
            assert life.envelope["content"]["title"].encode() == title
        await forget(store.database, "alice", actor="ops")
        assert await count_keys(store.database) == {}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [(None, "content_key_missing"), (K2, "content_key_missing"), (WRONG_K1, "content_key_wrong")],
)
async def test_without_the_key_each_reader_names_it_and_nothing_is_lost(
    migrated_database_url: str, settings: Settings, keys: str | None, reason: str
) -> None:
    async with store_with(migrated_database_url, K1) as store:
        sealed = await put(store, ago(hours=1), title="sealed")
        due = await put(store, ago(minutes=9), notBefore=ago(minutes=5).isoformat())
        at = store.at[MESSAGES]
        kept = await _stored(store)
    async with store_with(migrated_database_url, keys) as store:
        store.at[MESSAGES] = at
        other = await put(store, ago(minutes=30), title="other")
        due_too = await put(store, ago(minutes=8), notBefore=ago(minutes=5).isoformat())
        database = store.database
        page = await read_page(database, "alice", limit=10)
        for read in (
            lambda: read_life(database, sealed),
            lambda: read_past(database, INCARNATION, MESSAGES, "alice", {0: (0, 100)}, 10),
            lambda: forget(database, "alice", actor="ops"),
        ):
            with pytest.raises(ContentKeyError, match="'k1'") as caught:
                await read()  # type: ignore[no-untyped-call]
            assert (caught.value.key_id, caught.value.reason) == ("k1", reason)
        in_inbox = await read_originals(database, page.rows)
        error = in_inbox[sealed]
        assert isinstance(error, ContentKeyError)
        assert (error.key_id, error.reason) == ("k1", reason)
        assert isinstance(in_inbox[other], bytes)
        # The sweep goes on with the others, and finds these again.
        sweep = SweepStore(database)
        with capture_logs() as logs:
            assert list(await sweep.claim_scheduled(limit=10, lease_s=0)) == [due_too]
            [(day,)] = await store.fetch("SELECT day::text FROM message WHERE id = %(id)s::uuid", id=sealed)
            found = await sweep.originals([_overdue(sealed, day), _overdue(other, day)])
            assert list(found) == [other]
        assert {(line["event"], line["key_id"], line["reason"]) for line in logs} == {
            ("content_sealed", "k1", reason)
        }
        # Nobody waits for what cannot be opened: the client is told to read its inbox.
        both = settings.model_copy(
            update={
                "database_url": SecretStr(migrated_database_url),
                "content_keys": keys and SecretStr(keys),
            }
        )
        async with surroundings(both) as around:
            past = await _past_of(around)
            with capture_logs() as logs:
                for _ in range(2):
                    assert (await past.read("alice", {0: (0, 100)}, 10)).is_lost
            assert [line["key_id"] for line in logs if line["event"] == "content_sealed"] == ["k1"]
            await past.stop()
        if keys == K2:
            done = await rotate(database)
            assert (dict(done.left), list(done.errors)) == ({"k1": 2}, ["k1"])
        assert {i: raw for i, raw in (await _stored(store)).items() if i in (sealed, due)} == kept
    async with store_with(migrated_database_url, f"{K2},{K1}") as store:
        assert await read_life(store.database, sealed) is not None
        # With the key it is released at last.
        found_now = await SweepStore(store.database).claim_scheduled(limit=10, lease_s=0)
        assert due in found_now


async def _past_of(around: Any) -> StoredMessages:
    async def firsts(_: Any) -> dict[int, int]:
        return {}

    return StoredMessages(replace(around.context, incarnation=INCARNATION), firsts)


async def test_the_commands_make_count_and_rotate_keys(migrated_database_url: str) -> None:
    async with store_with(migrated_database_url, K1) as store:
        await put(store, ago(hours=1))

    async def run(*arguments: str, keys: str = "") -> tuple[int, str, str]:
        env = {
            "NOTIFYD_DATABASE_URL": migrated_database_url,
            **({"NOTIFYD_CONTENT_KEYS": keys} if keys else {}),
        }
        done = await asyncio.to_thread(run_notifyd, *arguments, env=env)
        return done.returncode, done.stdout, done.stderr

    code, made, _ = await run("keys", "new", "--id", "k3")
    assert (code, made[:3]) == (0, "k3:")
    made = made.strip()
    code, out, error = await run("keys", "ls", "--json", keys=made)
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {"key": "k1", "messages": 1, "held": False, "writes": False},
        {"key": "k3", "messages": 0, "held": True, "writes": True},
    ]
    assert "missing" in error
    code, out, error = await run("keys", "rotate", "--json", keys=made)
    assert (code, json.loads(out)) == (1, {"encrypted": 0, "left": {"k1": 1}})
    assert "'k1'" in error
    code, out, _ = await run("keys", "rotate", "--json", keys=f"{made},{K1}")
    assert (code, json.loads(out)) == (0, {"encrypted": 1, "left": {}})
    code, out, _ = await run("keys", "ls", keys=made)
    assert (code, out) == (0, "k3: 1 messages, writes\n")
    assert (await run("keys", "rotate"))[0] == 2
    assert (await run("keys", "new", "--id", "A B"))[0] == 2
    code, _, error = await run("trace", (await _an_id(migrated_database_url)))
    assert (code, len(error.splitlines())) == (1, 1)
    assert "'k3'" in error and "NOTIFYD_CONTENT_KEYS" in error


async def _an_id(url: str) -> str:
    async with open_database(url) as database:
        [(message_id,)] = await database.fetch("SELECT id::text FROM message")
    return str(message_id)
