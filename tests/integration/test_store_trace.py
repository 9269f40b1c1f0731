"""The life of a message as people and programs read it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from notifyd.message.envelope import new_id
from notifyd.store.batch import MessageRow
from notifyd.store.sql import query
from notifyd.store.trace import read_trace
from tests.fixtures.store import Store, envelope, event_of, open_store, random_id, row

pytestmark = pytest.mark.each_postgres


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def _trace_command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NOTIFYD_")}
    return await asyncio.to_thread(
        subprocess.run,
        [Path(sys.executable).with_name("notifyd"), "trace", *arguments],
        env={**environment, "NOTIFYD_DATABASE_URL": url, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


async def _a_full_life(store: Store, message_id: str) -> MessageRow:
    value = envelope(
        message_id,
        to=["alice", "bob"],
        channels=["ws", "webhook", "email"],
        contacts={"alice": {"webhook": [{"url": "https://example.test/x", "secret": "whsec_abc"}]}},
    )
    one = row(value, 3)
    at = one.message.timestamp_ms
    await store.persist.write_messages("notifyd.messages", 0, 3, 4, [one], store.on_refused)
    hook = {"user": "alice", "channel": "webhook", "pod": "deliver-1"}
    await store.events(
        [
            event_of(one, "sent", attempt=1, at=at + 20),
            event_of(one, "acked", attempt=1, at=at + 120),
            event_of(one, "attempting", attempt=1, at=at + 15, **hook),
            event_of(one, "retry_wait", attempt=1, at=at + 30, due=at + 5030, reason="http_503", **hook),
            event_of(one, "attempting", attempt=2, at=at + 5040, **hook),
            event_of(one, "dead", attempt=2, at=at + 5050, reason="http_400", detail="HTTP 400", **hook),
        ],
        [
            event_of(one, "skipped", user="alice", channel="email", pod="deliver-1", reason="no_address"),
            event_of(one, "stored", user="bob", reason="absent"),
            event_of(one, "seen", at=at + 200),
        ],
    )
    return one


async def test_the_trace_has_every_stage_and_no_contacts(store: Store) -> None:
    for message_id in (new_id(), random_id()):
        store.persist._known_days.clear()
        await store.fetch("DELETE FROM partition_mark")
        store.at.update(dict.fromkeys(store.at, 0))
        one = await _a_full_life(store, message_id)
        trace: dict[str, Any] | None = await read_trace(store.database, message_id.upper())
        assert trace is not None
        json.dumps(trace)
        assert list(trace) == [
            "id", "state", "envelope", "position", "deliveries", "events", "expires_at", "unknown"
        ]  # fmt: skip
        assert trace["unknown"] == []
        assert (trace["id"], trace["state"], trace["position"]) == (message_id, "dead", "0:3")
        sent = json.loads(one.message.raw)
        del sent["content"]["contacts"]
        assert trace["envelope"] == sent
        assert [event["stage"] for event in trace["events"]] == ["accepted", "persisted"]
        assert trace["events"][1]["pod"] == "persist-1"
        lives = {(item["user"], item["channel"]): item for item in trace["deliveries"]}
        assert len(lives) == 6
        assert {key: item["state"] for key, item in lives.items()} == {
            ("alice", "ws"): "acked",
            ("alice", "webhook"): "dead",
            ("alice", "email"): "skipped",
            ("bob", "ws"): "stored",
            ("bob", "webhook"): "pending",
            ("bob", "email"): "pending",
        }
        hook = lives["alice", "webhook"]
        assert list(hook) == [
            "user", "channel", "state", "attempts", "next_check_at", "events", "waits_for", "waits_until",
            "unknown",
        ]  # fmt: skip
        assert (hook["waits_for"], hook["waits_until"], hook["unknown"]) == (None, None, [])
        open_one = lives["bob", "webhook"]
        assert open_one["waits_for"] == "an outcome, or the sweep to look after it"
        assert open_one["waits_until"] == open_one["next_check_at"]
        assert open_one["unknown"] == ["outcome"]
        assert (hook["attempts"], hook["next_check_at"]) == (2, None)
        assert [(e["stage"], e["attempt"], e["reason"], e["pod"]) for e in hook["events"]] == [
            ("attempting", 1, None, "deliver-1"),
            ("retry_wait", 1, "http_503", "deliver-1"),
            ("attempting", 2, None, "deliver-1"),
            ("dead", 2, "http_400", "deliver-1"),
        ]
        assert [e["stage"] for e in lives["alice", "ws"]["events"]] == ["sent", "acked", "seen"]
        assert lives["bob", "webhook"]["next_check_at"] is not None


async def test_events_of_a_message_that_is_not_stored_yet_are_told(store: Store) -> None:
    one = row(envelope(), 0)
    assert await read_trace(store.database, one.message.id) is None
    at = one.message.timestamp_ms
    hook = {"channel": "webhook", "pod": "deliver-1", "attempt": 1}
    await store.events(
        [event_of(one, "read", user="bob"), event_of(one, "acked", attempt=1)],
        [event_of(one, "retry_wait", at=at + 30, due=at + 5030, reason="http_503", **hook)],
    )
    trace = await read_trace(store.database, one.message.id)
    assert trace is not None
    assert (trace["state"], trace["envelope"], trace["position"]) == ("unknown", None, None)
    assert trace["unknown"] == ["accepted", "persisted"]
    assert [event["stage"] for event in trace["events"]] == ["read"]
    called, pushed = trace["deliveries"]
    assert (called["channel"], called["state"], called["attempts"]) == ("webhook", "retry_wait", 1)
    assert called["waits_for"] == "attempt 2"
    assert called["waits_until"] == called["events"][0]["due_at"]
    assert (pushed["user"], pushed["channel"], pushed["state"]) == ("alice", "ws", "acked")
    assert pushed["unknown"] == ["sent"]


@pytest.mark.parametrize("make_id", [new_id, random_id], ids=["ordered", "random"])
async def test_a_message_that_is_stored_while_it_is_looked_for_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, make_id: Callable[[], str]
) -> None:
    one = row(envelope(make_id()), 0)
    await store.events([event_of(one, "acked", attempt=1)])
    fetch = store.database.fetch

    async def store_just_before(sql: Any, params: Any = None) -> Any:
        if sql == query("read_early_events"):
            monkeypatch.undo()
            await store.messages([one])
        return await fetch(sql, params)

    monkeypatch.setattr(store.database, "fetch", store_just_before)
    trace = await read_trace(store.database, one.message.id)
    assert trace is not None
    assert [(one["user"], one["state"]) for one in trace["deliveries"]] == [("alice", "acked")]


async def test_the_command_prints_json_a_timeline_or_not_found(
    store: Store, migrated_database_url: str
) -> None:
    one = await _a_full_life(store, new_id())
    done = await _trace_command(migrated_database_url, one.message.id, "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "dead")
    done = await _trace_command(migrated_database_url, one.message.id, "--watch")
    assert done.returncode == 0
    assert "whsec" not in done.stdout
    for word in ("accepted", "persisted", "acked", "dead", "http_400", "deliver-1", "+5.0 s", "bob by ws"):
        assert word in done.stdout
    done = await _trace_command(migrated_database_url, new_id(), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": "not_found"})
    for wrong in (
        ["x"],
        [],
        ["--user", "a", "--stuck"],
        ["--stuck", "--watch"],
        ["--slowest", "--since", "1x"],
    ):
        done = await _trace_command(migrated_database_url, *wrong)
        assert done.returncode == 2, wrong
        assert len(done.stderr.splitlines()) == 1, wrong
