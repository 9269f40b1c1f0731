"""Reading over HTTP: one's own inbox, one's part of a message, and an operator's search."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from notifyd.delivery.signal import StateSignal, decode_signal
from notifyd.push.auth import issue_token
from notifyd.settings import Settings
from tests.fixtures.api import Answer, Api, running_api
from tests.fixtures.inbox import ago, put
from tests.fixtures.store import Store, event_of, open_database, open_store, random_id, row
from tests.fixtures.waiting import eventually


class Caller:
    """Somebody with a token."""

    def __init__(self, api: Api, user: str, *scopes: str) -> None:
        self._base = f"http://127.0.0.1:{api.port}"
        self._token = issue_token(api.around.context.settings, user, scopes)

    async def get(self, path: str, **query: str) -> Answer:
        return await self._call("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Answer:
        return await self._call(
            "POST", path, **({"data": body} if isinstance(body, bytes) else {"json": body})
        )

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self._base + path, **options) as response,
        ):
            return Answer(response.status, response.headers, await response.json(content_type=None))


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


@pytest_asyncio.fixture
async def api(settings: Settings, migrated_database_url: str) -> AsyncIterator[Api]:
    changes = {"database_url": SecretStr(migrated_database_url), "api_read_timeout_s": 2.0}
    async with running_api(settings.model_copy(update=changes)) as running:
        yield running


def pointers(answer: Answer) -> list[str]:
    return [error.get("pointer", error.get("parameter")) for error in answer.body["errors"]]


async def test_a_user_pages_through_the_inbox_and_sees_nobody_else(api: Api, store: Store) -> None:
    ids = [
        await put(store, ago(hours=9 * n + 1), to=["alice", "bob"], contacts={"alice": {"email": ["a@b.c"]}})
        for n in range(7)
    ]
    await put(store, ago(hours=2), to=["bob"])
    alice = Caller(api, "alice")
    seen, after = [], {}
    while True:
        answer = await alice.get("/v1/inbox", limit="3", **after)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        seen += answer.body["messages"]
        if answer.body["next"] is None:
            break
        after = {"after": answer.body["next"]}
    assert [one["message"]["UUID"] for one in seen] == ids
    assert all("toUserIds" not in one["message"] for one in seen)
    assert all("contacts" not in one["message"]["content"] for one in seen)
    assert seen[0]["readAt"] is None
    assert (await alice.get("/v1/inbox/unread")).body == {"unread": 7}
    assert (await Caller(api, "nobody").get("/v1/inbox")).body == {"messages": [], "next": None, "upTo": None}


async def test_what_one_device_marked_is_told_to_the_others(api: Api, store: Store) -> None:
    ids = [await put(store, ago(hours=n + 1)) for n in range(5)]
    alice = Caller(api, "alice")
    answer = await alice.post("/v1/inbox/read", {"ids": [ids[1], random_id()]})
    assert answer.body == {"changed": [ids[1]], "unread": 4, "next": None}
    assert (await alice.post("/v1/inbox/read", {"ids": [ids[1]]})).body["changed"] == []
    page = (await alice.get("/v1/inbox", limit="2")).body
    top = await alice.post("/v1/inbox/archived", {"upTo": page["next"]})
    assert sorted(top.body["changed"]) == sorted(ids[1:])
    assert top.body["unread"] == 1
    rest = (await alice.get("/v1/inbox", unread="true")).body["messages"]
    assert [one["message"]["UUID"] for one in rest] == [ids[0]]
    archived = (await alice.get("/v1/inbox", archived="true")).body["messages"]
    assert [one["message"]["UUID"] for one in archived] == ids[1:]

    async def signals() -> list[StateSignal]:
        records = await api.around.records(api.around.topics.signals)
        assert {record.key for record in records} <= {b"alice"}
        told = [decode_signal(record.value) for record in records]
        return told if len(told) >= 2 else []  # type: ignore[return-value]

    # What changed, once; what was there already is no news.
    told = await eventually(signals, what="the signals")
    assert [(one.set, sorted(one.ids)) for one in told] == [
        ("read", [ids[1]]),
        ("archived", sorted(ids[1:])),
    ]


async def test_a_token_of_another_user_or_garbage_is_refused_by_name(api: Api, store: Store) -> None:
    for n in range(3):
        await put(store, ago(hours=n + 1), to=["alice", "bob"])
    theirs = (await Caller(api, "bob").get("/v1/inbox", limit="1")).body["next"]
    alice = Caller(api, "alice")
    own = (await alice.get("/v1/inbox", limit="1")).body["next"]
    for token in (theirs, own[:-1], own[::-1], "", "x" * 5000, "\0", "%00", "é", "AQ" * 20):
        answer = await alice.get("/v1/inbox", after=token)
        assert (answer.status, pointers(answer)) == (400, ["after"]), token
        if len(token) <= 128:
            answer = await alice.post("/v1/inbox/read", {"upTo": token})
            assert (answer.status, pointers(answer)) == (422, ["/upTo"]), token
    assert (await alice.get("/v1/inbox/unread")).body == {"unread": 3}


async def test_every_fault_of_a_query_or_a_body_is_named(api: Api) -> None:
    alice = Caller(api, "alice", "notify:ops")
    answer = await alice.get("/v1/inbox", limit="0", unread="yes", type="a\0b", what="1")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert sorted(pointers(answer)) == ["limit", "type", "unread", "what"]
    answer = await alice.get("/v1/messages", state="lost", **{"from": "yesterday"}, after="x")
    assert sorted(pointers(answer)) == ["after", "from", "state"]
    bodies: list[tuple[Any, int, list[str] | None]] = [
        (b"{", 400, None),
        ({}, 422, [""]),
        ({"ids": []}, 422, ["/ids"]),
        ({"ids": ["x"]}, 422, ["/ids/0"]),
        ({"ids": [random_id()], "upTo": "x"}, 422, [""]),
        ({"ids": [random_id()] * 501}, 422, ["/ids"]),
        ({"id": [random_id()]}, 422, ["/id"]),
        ([], 422, [""]),
        (b'{"ids": "' + b"x" * 70_000 + b'"}', 413, None),
    ]
    for body, status, where in bodies:
        answer = await alice.post("/v1/inbox/seen", body)
        assert answer.status == status, body
        if where is not None:
            assert pointers(answer) == where, body


async def test_a_user_sees_the_own_part_of_a_message_and_an_operator_all(api: Api, store: Store) -> None:
    value_id = await put(
        store, ago(hours=1), to=["alice", "bob"], channels=["ws", "webhook"],
        contacts={"alice": {"webhook": [{"url": "https://a.example", "secret": "whsec_x"}]}},
    )  # fmt: skip
    [(raw,)] = await store.fetch("SELECT raw FROM message")
    one = row(bytes(raw), 0)
    await store.events([event_of(one, "acked"), event_of(one, "read", user="bob")])
    mine = (await Caller(api, "alice").get(f"/v1/messages/{value_id.upper()}")).body
    assert (mine["id"], mine["state"]) == (value_id, "pending")
    assert {delivery["user"] for delivery in mine["deliveries"]} == {"alice"}
    assert "toUserIds" not in mine["envelope"]
    assert not any("bob" in str(part) for part in (mine["deliveries"], mine["events"]))
    whole = (await Caller(api, "op", "notify:ops").get(f"/v1/messages/{value_id}")).body
    assert len(whole["deliveries"]) == 4
    assert whole["envelope"]["toUserIds"] == ["alice", "bob"]
    for body in (mine, whole):
        assert "whsec" not in str(body)
    for caller, message_id in (
        (Caller(api, "carol"), value_id),
        (Caller(api, "op", "notify:ops"), random_id()),
        (Caller(api, "alice"), "nonsense"),
    ):
        answer = await caller.get(f"/v1/messages/{message_id}")
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_an_operator_finds_messages_by_what_is_known_of_them(api: Api, store: Store) -> None:
    ids = [
        await put(store, ago(hours=7 * n + 1), to=[["alice"], ["bob"]][n % 2], type=["a", "b", "c"][n % 3])
        for n in range(18)
    ]
    ops = Caller(api, "op", "notify:ops")

    async def found(**query: str) -> list[str]:
        seen: list[str] = []
        while True:
            answer = await ops.get("/v1/messages", **query)
            assert answer.status == 200, answer.body
            seen += [one["id"] for one in answer.body["messages"]]
            if answer.body["next"] is None:
                return seen
            query["after"] = answer.body["next"]

    assert await found(limit="4") == ids
    assert await found(limit="1", user="bob") == ids[1::2]
    assert await found(type="c", sender="orders") == ids[2::3]
    assert await found(state="dead") == []
    assert await found(state="pending", user="alice", type="a") == ids[::6]
    assert await found(**{"from": ago(hours=30).isoformat(), "to": ago(hours=9).isoformat()}) == ids[2:5]
    assert await found(sender="nobody") == []
    answer = await Caller(api, "alice").get("/v1/messages")
    assert (answer.status, answer.body["code"]) == (403, "missing_scope")
    assert "notify:ops" in answer.headers["WWW-Authenticate"]


async def test_an_operator_is_told_what_is_stuck_and_what_was_slow(api: Api, store: Store) -> None:
    message_id = await put(store, ago(minutes=20), channels=["ws", "stub"])
    [(raw, accepted_at)] = await store.fetch("SELECT raw, accepted_at FROM message")
    one = row(bytes(raw), 0, timestamp_ms=int(accepted_at.timestamp() * 1000))
    await store.events([event_of(one, "sent", channel="stub", at=one.message.timestamp_ms + 2500, attempt=1)])
    ops = Caller(api, "op", "notify:ops")
    stuck = (await ops.get("/v1/deliveries/stuck", olderThan="10m")).body
    assert stuck["partial"] is False
    assert [(d["id"], d["channel"], d["state"]) for d in stuck["deliveries"]] == [
        (message_id, "ws", "pending")
    ]
    assert (await ops.get("/v1/deliveries/stuck", olderThan="1h")).body["deliveries"] == []
    slow = (await ops.get("/v1/deliveries/slowest", since="30m", limit="1")).body["deliveries"]
    assert [(d["channel"], d["took_s"]) for d in slow] == [("stub", 2.5)]
    assert (await ops.get("/v1/deliveries/slowest", since="10m")).body["deliveries"] == []
    for path, name in (("stuck", "olderThan"), ("slowest", "since")):
        answer = await ops.get(f"/v1/deliveries/{path}", **{name: "soon"}, limit="0")
        assert sorted(pointers(answer)) == sorted(["limit", name])
        answer = await Caller(api, "alice").get(f"/v1/deliveries/{path}")
        assert (answer.status, answer.body["code"]) == (403, "missing_scope")


async def test_a_message_whose_key_is_missing_is_told_and_the_others_are_read(
    api: Api, migrated_database_url: str
) -> None:
    keys = "k1:" + "MTEx" * 10 + "MTE="
    async with open_database(migrated_database_url, content_keys=keys) as database:
        sealed = await put(store := Store(database), ago(hours=1), to=["alice"])
        await put(store, ago(minutes=50), to=["alice"])
        at = store.at["notifyd.messages"]
    async with open_store(migrated_database_url) as store:
        store.at["notifyd.messages"] = at
        other = await put(store, ago(hours=2), to=["alice", "bob"], title="Hi")
    ops, alice = Caller(api, "op", "notify:ops"), Caller(api, "alice")
    with capture_logs() as logs:
        answer = await ops.get(f"/v1/messages/{sealed}")
        assert (answer.status, answer.body["code"]) == (503, "content_key_missing")
        assert "k1" not in answer.body["detail"]
        page = await alice.get("/v1/inbox")
    assert "'k1'" in logs[0]["detail"]
    # Once, however many there are.
    assert [(line["event"], line["key_id"]) for line in logs[1:]] == [("content_sealed", "k1")]
    _, closed, open_one = page.body["messages"]
    assert closed["message"] == {"UUID": sealed, "content": {}}
    assert closed["error"]["code"] == "content_key_missing"
    assert "k1" not in closed["error"]["detail"]
    assert closed["arrivedAt"] is not None
    assert (open_one["message"]["UUID"], open_one["message"]["content"]["title"]) == (other, "Hi")
    assert open_one["error"] is None
    assert (await ops.get(f"/v1/messages/{other}")).status == 200
    assert (await alice.post("/v1/inbox/read", {"ids": [sealed]})).body["changed"] == [sealed]
    assert (await alice.get("/v1/inbox/unread")).body == {"unread": 2}


async def test_without_the_database_reads_say_later_and_messages_are_taken(settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"postgresql://nobody:hidden@127.0.0.1:{closed.getsockname()[1]}/none"
        changes = {"database_url": SecretStr(url), "api_read_timeout_s": 2.0}
        async with running_api(settings.model_copy(update=changes)) as api:
            alice = Caller(api, "alice", "notify:ops")
            for path in ("/v1/inbox", "/v1/inbox/unread", "/v1/messages", f"/v1/messages/{random_id()}"):
                answer = await alice.get(path)
                assert (answer.status, answer.body["code"]) == (503, "database_unavailable")
                assert int(answer.headers["Retry-After"]) > 0
                assert "127.0.0.1" not in answer.body["detail"]
            answer = await alice.post("/v1/inbox/read", {"ids": [random_id()]})
            assert answer.status == 503
            sent = await api.post({"toUserIds": ["alice"], "content": {"title": "Hi"}})
            assert sent.status == 202
    async with running_api(settings) as api:
        answer = await Caller(api, "alice").get("/v1/inbox")
        assert (answer.status, answer.body["code"]) == (503, "no_database")


async def test_a_database_that_is_silent_costs_a_bounded_time_and_recovers_by_itself(
    api: Api, store: Store
) -> None:
    await put(store, ago(hours=1))
    alice = Caller(api, "alice")
    async with store.database.transaction() as tx:
        await tx.fetch("LOCK TABLE user_state")
        answers = await asyncio.gather(*(alice.get("/v1/inbox/unread") for _ in range(20)))
        assert {(one.status, one.body["code"]) for one in answers} <= {
            (503, "database_slow"),
            (503, "database_unavailable"),
        }
        assert (await api.post({"toUserIds": ["alice"], "content": {"title": "Hi"}})).status == 202
        await tx.rollback()
    assert (await alice.get("/v1/inbox/unread")).body == {"unread": 1}


async def test_nobody_reads_without_a_token(api: Api) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", "/v1/inbox"), ("POST", "/v1/inbox/read"), ("GET", "/v1/messages")):
            async with session.request(method, f"http://127.0.0.1:{api.port}{path}") as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
