"""Dead letters over HTTP: who may, what is found and told, what is done with them, and how far it came."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from notifyd.http.dead_letters import DeadLetterRoutes
from notifyd.http.openapi import describe_api
from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.push.auth import issue_token
from notifyd.settings import Settings, load_settings
from notifyd.store.pool import Database
from notifyd.stream.dead_letter import DeadLetters
from notifyd.stream.resend import read_resend
from tests.fixtures.api import Answer, Api, running_api
from tests.fixtures.store import open_database
from tests.fixtures.waiting import eventually

PARTITIONS = 3
DOCUMENT = describe_api(load_settings({}))
SCHEMAS = {
    "": "DeadLetterPage",
    "/stats": "DeadLetterStats",
    "/replay": "DeadLettersHandled",
    "/discard": "DeadLettersHandled",
}


@dataclass
class Operator:
    """Somebody who calls the routes with a token."""

    api: Api
    user: str = "olga"
    scopes: Sequence[str] = ("notify:ops",)

    async def get(self, path: str = "", **query: str) -> Answer:
        return await self._call("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Answer:
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        return await self._call("POST", path, **sent)

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        token = issue_token(self.api.around.context.settings, self.user, self.scopes)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.api.port}/v1/dlq{path}"
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, url, **options) as response,
        ):
            answer = Answer(response.status, response.headers, await response.json(content_type=None))
        name = SCHEMAS.get(path, "WholeDeadLetter") if answer.status == 200 else "Problem"
        schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
        if answer.status not in (400, 422):  # whose `errors` name parameters, or have no code
            Draft202012Validator(schema).validate(answer.body)
        return answer

    async def letters(self, **query: str) -> list[dict[str, Any]]:
        """All pages of a list."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.get(**query)
            assert answer.status == 200, answer.body
            found += answer.body["letters"]
            if answer.body["next"] is None:
                return found
            query["after"] = answer.body["next"]

    async def audit(self, place: str) -> list[dict[str, str]]:
        answer = await self.get(f"/{place}")
        assert answer.status == 200
        return answer.body["audit"]


@pytest_asyncio.fixture
async def api(settings: Settings, migrated_database_url: str) -> AsyncIterator[Api]:
    changes = {"database_url": SecretStr(migrated_database_url), "topic_partitions": PARTITIONS}
    async with running_api(settings.model_copy(update=changes)) as running:
        yield running


@pytest_asyncio.fixture
async def database(migrated_database_url: str) -> AsyncIterator[Database]:
    async with open_database(migrated_database_url) as opened:
        yield opened


@pytest.fixture
def olga(api: Api) -> Operator:
    return Operator(api)


def letter_writer(api: Api) -> DeadLetters:
    return api.around.context.dead_letters()


async def bury(
    api: Api, count: int, *, reason: str = "http_503", sender: str = "orders", user: str = "alice"
) -> list[str]:
    """Set messages aside for one recipient, evenly over the partitions; return their ids."""
    ids = [new_id() for _ in range(count)]
    records = []
    for number, one in enumerate(ids):
        contacts = {user: {"webhook": [{"url": "https://a.example/", "secret": "whsec_c2VjcmV0"}]}}
        value = build_envelope(
            id=one, to=[user], sender=sender, created_by="tests", title="Hi", contacts=contacts
        )
        record = _record(api, value, key=one.encode(), offset=number)
        letter = letter_writer(api).record(
            record, reason=reason, error="no luck", attempts=3, channel="webhook", user=user
        )
        records.append(_on(letter, number % PARTITIONS))
    await api.around.context.producer.send_all(records)
    return ids


def _record(api: Api, value: bytes, *, key: bytes = b"key", offset: int = 0) -> Any:
    return SimpleNamespace(
        topic=api.around.topics.messages,
        partition=0,
        offset=offset,
        timestamp=1_763_892_000_000,
        key=key,
        value=value,
        headers=(("own", b"\x01"),),
    )


def _on(letter: Any, partition: int) -> Any:
    return type(letter)(letter.topic, letter.value, letter.key, letter.headers, partition)


async def resent(api: Api) -> Counter[str]:
    records = await api.around.records(api.around.topics.resend)
    return Counter(json.loads(record.value)["UUID"] for record in records)


async def test_it_takes_the_scope_of_an_operator(api: Api) -> None:
    user, backend = Operator(api, "alice", ()), Operator(api, "shop", ("notify:send",))
    for who in (user, backend):
        for answer in (
            await who.get(),
            await who.get("/stats"),
            await who.get("/0:0"),
            await who.post("/replay", {"filter": {}}),
            await who.post("/discard", {"filter": {}}),
        ):
            assert (answer.status, answer.body["code"]) == (403, "missing_scope")
            assert 'scope="notify:ops"' in answer.headers["WWW-Authenticate"]
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", ""), ("GET", "/stats"), ("GET", "/0:0"), ("POST", "/replay")):
            url = f"http://127.0.0.1:{api.port}/v1/dlq{path}"
            async with session.request(method, url, json=None) as response:
                assert response.status == 401


async def test_pages_over_all_partitions_hold_each_letter_once(api: Api, olga: Operator) -> None:
    assert (await olga.get()).body == {"letters": [], "next": None}
    ids = await bury(api, 40)
    first = (await olga.get(limit="7")).body
    assert len(first["letters"]) == 7
    # What dies while somebody pages is not theirs any more.
    await bury(api, 3)
    rest = await olga.letters(limit="7", after=first["next"])
    found = first["letters"] + rest
    assert sorted(one["id"] for one in found) == sorted(ids)
    assert len({one["place"].partition(":")[0] for one in found}) == PARTITIONS
    one = found[0]
    assert (one["reason"], one["sender"], one["channel"], one["user"], one["attempts"]) == (
        "http_503", "orders", "webhook", "alice", 3
    )  # fmt: skip
    assert one["first_at"] == "2025-11-23T10:00:00.000Z"


async def test_filters_choose_and_stats_count(api: Api, olga: Operator) -> None:
    [mine] = await bury(api, 1, reason="http_410", user="bob")
    await bury(api, 4, sender="billing")
    await bury(api, 5)
    died = (await olga.letters(id=mine.upper()))[0]["died_at"]
    for query, count in (
        ({"reason": "http_410"}, 1),
        ({"user": "bob"}, 1),
        ({"sender": "billing"}, 4),
        ({"channel": "webhook"}, 10),
        ({"channel": "email"}, 0),
        ({"sender": "billing", "user": "bob"}, 0),
        ({"from": died}, 10),
        ({"to": died}, 0),
        ({"from": "2000-01-01", "to": "2000-01-02"}, 0),
        ({"from": "2100-01-01"}, 0),
    ):
        assert len(await olga.letters(limit="3", **query)) == count, query
    place = (await olga.letters(sender="billing"))[0]["place"]
    assert (await olga.post("/discard", {"places": [place]})).body["done"] == 1
    told = (await olga.get("/stats", by="sender")).body
    assert (told["by"], told["next"]) == ("sender", None)
    assert [(row["name"], row["letters"], row["open"]) for row in told["rows"]] == [
        ("orders", 6, 6),
        ("billing", 4, 3),
    ]
    assert [row["name"] for row in (await olga.get("/stats", user="bob")).body["rows"]] == ["http_410"]


async def test_each_fault_of_a_query_is_told(olga: Operator) -> None:
    answer = await olga.get(limit="0", reason="", **{"from": "yesterday", "colour": "red", "after": "x"})
    assert (answer.status, answer.body["code"]) == (400, "bad_parameter")
    assert {error["parameter"] for error in answer.body["errors"]} == {
        "limit", "reason", "from", "colour", "after",
    }  # fmt: skip
    assert [e["parameter"] for e in (await olga.get("/stats", by="colour")).body["errors"]] == ["by"]
    for place in ("0:7", "77:0", "nonsense", "0:-1", "0:99999999999999999999"):
        assert ((await olga.get(f"/{place}")).status, place) == (404, place)


async def test_each_fault_of_an_order_is_pointed_at(api: Api, olga: Operator) -> None:
    await bury(api, 1)
    for body, pointers in (
        ({}, [""]),
        ({"places": ["0:0"], "filter": {}}, [""]),
        ({"places": ["0:0"], "limit": 3}, [""]),
        ({"places": []}, ["/places"]),
        ({"places": ["0:0", "0-1"]}, ["/places/1"]),
        ({"places": ["0:0"] * 201}, ["/places"]),
        ({"filter": {"reasn": "x"}}, ["/filter/reasn"]),
        ({"filter": {"from": "yesterday", "user": ""}}, ["/filter/user", "/filter/from"]),
        ({"filter": {}, "limit": 0}, ["/limit"]),
        ({"filter": {}, "limit": 10_001}, ["/limit"]),
        ({"filter": {}, "rate": 0.5}, ["/rate"]),
        ({"filter": {}, "after": "nonsense"}, ["/after"]),
        ({"filter": {}, "a/b": 1}, ["/a~1b"]),
    ):
        answer = await olga.post("/replay", body)
        assert (answer.status, answer.body["code"]) == (422, "invalid_order"), body
        assert [error["pointer"] for error in answer.body["errors"]] == pointers, body
    assert [
        e["pointer"] for e in (await olga.post("/discard", {"filter": {}, "rate": 5})).body["errors"]
    ] == ["/rate"]
    assert (await olga.post("/replay", b"{")).body["code"] == "not_json"
    assert await resent(api) == {}


async def test_a_replay_reaches_its_recipient_once_and_names_who_asked(
    api: Api, olga: Operator, database: Database
) -> None:
    ids = await bury(api, 30)
    await bury(api, 5, reason="other")
    order = {"filter": {"reason": "http_503"}}
    dry = await olga.post("/replay", {**order, "dryRun": True})
    expected = {"action": "replay", "dryRun": True, "done": 30, "before": 0, "refused": [], "next": None}
    assert (dry.status, dry.body) == (200, expected)
    assert await resent(api) == {}
    assert (await olga.post("/replay", order)).body == {**expected, "dryRun": False}
    assert await resent(api) == dict.fromkeys(ids, 1)
    for record in await api.around.records(api.around.topics.resend):
        read = read_resend(record)
        assert (read.user, read.channel, read.first_at_ms) == ("alice", "webhook", 1_763_892_000_000)
    again = await olga.post("/replay", order)
    assert (again.body["done"], again.body["before"]) == (0, 30)
    assert await resent(api) == dict.fromkeys(ids, 1)
    sql = "SELECT actor, action, reason, count(*) FROM dlq_audit GROUP BY 1, 2, 3"
    assert await database.fetch(sql) == [("olga", "replay", "http_503", 30)]
    forced = await olga.post("/replay", {**order, "again": True, "limit": 4})
    assert forced.body["done"] == 4
    assert sum((await resent(api)).values()) == 34


async def test_a_request_says_how_far_it_came_and_the_next_goes_on(api: Api, olga: Operator) -> None:
    ids = await bury(api, 25)
    done, after = [], {}
    while True:
        body = (await olga.post("/replay", {"filter": {}, "limit": 10, "again": True, **after})).body
        done.append(body["done"])
        if body["next"] is None:
            break
        after = {"after": body["next"]}
        # What dies since the first request is left to another.
        await bury(api, 2)
    assert (sum(done), done[0]) == (25, 10)
    assert await resent(api) == dict.fromkeys(ids, 1)


async def test_the_time_of_a_request_is_bounded_and_a_stop_ends_it_early(
    settings: Settings, migrated_database_url: str, api: Api, olga: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(api, 60)
    routes: DeadLetterRoutes = api.role._dead_letters
    monkeypatch.setattr(routes, "_work_s", 1.5)
    body = (await olga.post("/replay", {"filter": {}, "rate": 10})).body
    assert 0 < body["done"] < 60
    assert body["next"] is not None
    monkeypatch.setattr(routes, "_work_s", 60.0)
    asked = asyncio.create_task(olga.post("/replay", {"filter": {}, "rate": 10, "after": body["next"]}))
    before = body["done"]

    async def has_begun() -> bool:
        return sum((await resent(api)).values()) > before

    await eventually(has_begun, what="the second request to begin")
    busy = await olga.post("/discard", {"filter": {}})
    assert (busy.status, busy.body["code"]) == (429, "overloaded")
    assert api.role.running == ["dead letters"]
    routes.end()
    stopped = (await asked).body
    assert 0 < stopped["done"] < 60 - before
    assert stopped["next"] is not None
    assert sum((await resent(api)).values()) == before + stopped["done"]


async def test_chosen_ones_are_discarded_and_what_is_not_there_is_told(api: Api, olga: Operator) -> None:
    await bury(api, 9)
    places = [one["place"] for one in await olga.letters()][::2]
    answer = await olga.post("/discard", {"places": [*places, places[0], "2:77", "88:0"]})
    assert answer.status == 200
    assert answer.body["done"] == len(places)
    assert answer.body["refused"] == [
        {"detail": "there is no dead letter at this place", "letters": 2, "places": ["2:77", "88:0"]}
    ]
    [entry] = await olga.audit(places[0])
    assert (entry["actor"], entry["action"]) == ("olga", "discard")
    left = await olga.post("/replay", {"filter": {}, "dryRun": True})
    assert (left.body["done"], left.body["before"]) == (9 - len(places), len(places))
    # By name they are replayed all the same, where that is asked for.
    assert (await olga.post("/replay", {"places": places})).body["before"] == len(places)
    assert (await olga.post("/replay", {"places": places, "again": True})).body["done"] == len(places)
    assert [one["action"] for one in await olga.audit(places[0])] == ["discard", "replay"]


async def test_what_cannot_be_read_or_kept_whole_is_shown_and_refused(api: Api, olga: Operator) -> None:
    bodies = [
        b"\x00\xff",
        b'{"UUID": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "from": "\\ud800"',
        b"",
        b"[" * 5000,
        b'{"UUID": 7, "from": "\\ud800", "content": {"n": 1e999}}',
    ]
    letters = letter_writer(api)
    records = [
        letters.record(_record(api, body), reason="not_json", error="cannot be read") for body in bodies
    ]
    huge = letters.record(_record(api, b"x" * 50_000_000), reason="too_large", error="far too large")
    await api.around.context.producer.send_all([_on(one, 1) for one in (*records, huge)])
    found = await olga.letters(limit="2")
    assert [one["id"] for one in found] == [None, "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", *[None] * 4]
    shown = [(await olga.get(f"/{one['place']}")).body for one in found]
    assert [one["bytes"] for one in shown] == [*map(len, bodies), 65536]
    assert all(one["message"] is None or "cannot be read" in one["message"] for one in shown)
    answer = (await olga.post("/replay", {"filter": {}})).body
    assert answer["done"] == 5
    [refused] = answer["refused"]
    assert (refused["letters"], refused["places"]) == (1, ["1:5"])
    assert "too large" in refused["detail"]
    back = await api.around.records(api.around.topics.messages)
    assert sorted(record.value for record in back) == sorted(bodies)
    assert all(record.headers == (("own", b"\x01"),) for record in back)


async def test_no_answer_shows_addresses_or_secrets(api: Api, olga: Operator) -> None:
    await bury(api, 1)
    [one] = await olga.letters()
    shown = (await olga.get(f"/{one['place']}")).body
    assert shown["message"]["content"]["title"] == "Hi"
    assert "contacts" not in shown["message"]["content"]
    assert "whsec_" not in json.dumps([one, shown])


async def test_without_the_database_letters_are_read_and_none_is_touched(settings: Settings) -> None:
    gone = {
        "database_url": SecretStr("postgresql://127.0.0.1:1/none"),
        "topic_partitions": PARTITIONS,
        "api_read_timeout_s": 3.0,
    }
    async with running_api(settings.model_copy(update=gone)) as api:
        olga = Operator(api)
        await bury(api, 3)
        [first, *_] = await olga.letters()
        assert (await olga.get(f"/{first['place']}")).body["audit"] is None
        assert [row["open"] for row in (await olga.get("/stats")).body["rows"]] == [None]
        answer = await olga.post("/replay", {"filter": {}})
        assert (answer.status, answer.body["done"]) == (503, 0)
        assert "Retry-After" in answer.headers
        assert await resent(api) == {}
