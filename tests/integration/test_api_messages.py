"""`POST /v1/messages` on a real broker: what is confirmed is there, what is refused is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import pytest

from notifyd.message.build import build_envelope
from notifyd.message.ids import new_id
from notifyd.push.auth import issue_token
from notifyd.settings import Settings
from tests.fixtures.api import Answer, Api, running_api
from tests.fixtures.waiting import eventually

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    limits = {"api_max_body_bytes": 300_000, "api_max_batch": 50, "api_body_timeout_s": 1.0}
    origins = {"ws_origins": ("https://shop.example",)}
    async with running_api(settings.model_copy(update={**limits, **origins})) as api:
        yield api


def whole(**parts: Any) -> bytes:
    return build_envelope(to=["alice"], sender="orders", created_by="orders-svc", title="Hi", **parts)


def place(record: Any) -> str:
    return f"{record.partition}:{record.offset}"


# What is taken


async def test_a_message_is_at_the_position_that_was_told_byte_for_byte(api: Api) -> None:
    value = b" " + whole().replace(b'"Hi"', b'"Hi"  ')
    answer = await api.post(value, traceparent=TRACE)
    assert answer.status == 202
    assert answer.headers["Cache-Control"] == "no-store"
    (record,) = await api.written()
    assert answer.body == {"id": json.loads(value)["UUID"], "position": place(record)}
    assert record.value == value.strip()
    assert record.key.decode() == answer.body["id"]
    headers = dict(record.headers)
    assert headers["traceparent"] == TRACE.encode()
    assert (headers["ce_id"], headers["ce_source"]) == (answer.body["id"].encode(), b"orders")


async def test_what_is_left_out_comes_from_the_token_and_the_clock(api: Api) -> None:
    answer = await api.post({"toUserIds": ["bob"], "content": {"title": "Hi"}}, traceparent="broken")
    assert answer.status == 202
    (record,) = await api.written()
    fields = json.loads(record.value)
    assert (fields["from"], fields["createBy"], fields["UUID"]) == ("shop", "shop", answer.body["id"])
    assert "traceparent" not in dict(record.headers)


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_batch_is_told_message_by_message_in_its_order(api: Api, kind: str) -> None:
    values = [whole(), whole(), whole()]
    body = b"\n".join(values) if "ndjson" in kind else b"[" + b",".join(values) + b"]"
    answer = await api.post(body, Content_Type=kind)
    assert answer.status == 202
    found = {place(record): record.value for record in await api.written()}
    assert [found[one["position"]] for one in answer.body["messages"]] == values
    assert [one["id"] for one in answer.body["messages"]] == [json.loads(value)["UUID"] for value in values]


async def test_the_idempotency_key_is_the_uuid_bare_or_in_quotes(api: Api) -> None:
    body = {"toUserIds": ["bob"], "content": {}}
    key = new_id()
    assert (await api.post(body, Idempotency_Key=key)).body["id"] == key
    assert (await api.post(body, Idempotency_Key=f'"{key.upper()}"')).body["id"] == key
    first, second = await api.written()
    assert first.value == second.value, "a repetition must be no conflict"
    assert (await api.post(body, Idempotency_Key="order-7")).status == 400


async def test_a_thousand_at_once_are_all_confirmed_and_all_there(api: Api) -> None:
    values = [whole(data=number) for number in range(1000)]
    answers = await asyncio.gather(*(api.post(value) for value in values))
    assert {answer.status for answer in answers} == {202}
    found = {place(record): record.value for record in await api.written()}
    assert {answer.body["position"]: value for answer, value in zip(answers, values, strict=True)} == found


# What is refused, and leaves nothing behind


def is_problem(answer: Answer, status: int, code: str) -> bool:
    assert answer.headers["Content-Type"].startswith("application/problem+json"), answer
    assert (answer.status, answer.body["status"], answer.body["code"]) == (status, status, code)
    assert answer.body["title"]
    assert answer.body["detail"]
    return True


async def test_who_may_not_send_is_told_so_before_the_body_is_looked_at(api: Api) -> None:
    settings = api.around.context.settings
    for token in (None, "Bearer", "Bearer nonsense", f"Basic {api.token}"):
        answer = await api.post(b"{", Authorization=token)
        assert is_problem(answer, 401, "unauthorised")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for scopes in ((), ("notify:ops",)):
        token = issue_token(settings, "alice", scopes)
        answer = await api.post(whole(), Authorization=f"Bearer {token}")
        assert is_problem(answer, 403, "missing_scope")
        assert "notify:send" in answer.headers["WWW-Authenticate"]
    assert await api.written() == []


async def test_faults_have_pointers_and_nothing_of_the_batch_is_written(api: Api) -> None:
    answer = await api.post([json.loads(whole()), {"toUserIds": ["bob", 7], "content": {"ttl": "soon"}}])
    assert is_problem(answer, 422, "invalid_message")
    assert [error["pointer"] for error in answer.body["errors"]] == ["/1/toUserIds/1", "/1/content/ttl"]
    answer = await api.post(b'{"toUserIds": [\n"bob",]}')
    assert is_problem(answer, 400, "not_json")
    assert (answer.body["line"], answer.body["column"]) == (2, 7)
    assert await api.written() == []


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_another_media_type_is_refused_with_those_that_are_taken(api: Api, kind: str | None) -> None:
    answer = await api.post(whole(), Content_Type=kind)
    assert is_problem(answer, 415, "media_type")
    assert "application/json" in answer.headers["Accept-Post"]


async def test_a_compressed_body_is_refused(api: Api) -> None:
    assert is_problem(await api.post(whole(), Content_Encoding="gzip"), 415, "content_encoding")


async def chunks(size: int, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


async def test_a_body_over_the_limit_is_refused_told_before_or_not(api: Api) -> None:
    assert is_problem(await api.post(b" " * 300_001), 413, "too_large")
    assert is_problem(await api.post(chunks(50_000, 7)), 413, "too_large")
    assert is_problem(await api.post([{}] * 51), 413, "batch_too_large")
    assert (await api.post(whole())).status == 202, "the role goes on"


async def half_a_request(
    api: Api, body: bytes, size: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return reader, writer


async def test_a_body_that_does_not_arrive_holds_nothing_for_longer_than_its_limit(api: Api) -> None:
    value = whole()
    waiting = [await half_a_request(api, value[:-1], len(value)) for _ in range(20)]
    assert (await api.post(whole())).status == 202, "others are served meanwhile"
    for reader, writer in waiting:
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)
        while await asyncio.wait_for(reader.read(65536), 20):
            pass  # ... until the server has closed
        writer.close()
    assert api.role.running == []
    assert len(await api.written()) == 1


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(api: Api) -> None:
    value = whole()
    _, writer = await half_a_request(api, value[:-1], len(value))
    await eventually(lambda: bool(api.role.running))
    writer.close()
    await eventually(lambda: not api.role.running)
    assert await api.written() == []


async def test_more_than_fits_at_a_time_is_told_to_come_again(settings: Settings) -> None:
    limits = {"api_max_requests": 3, "api_body_timeout_s": 30.0}
    async with running_api(settings.model_copy(update=limits)) as api:
        value = whole()
        held = [await half_a_request(api, value[:-1], len(value)) for _ in range(3)]
        await eventually(lambda: api.role.running == ["3 requests"])
        answer = await api.post(whole())
        assert is_problem(answer, 429, "overloaded")
        assert answer.headers["Retry-After"] == "1"
        for reader, writer in held:
            writer.write(value[-1:])
            assert b" 202 " in await asyncio.wait_for(reader.readline(), 20)
            writer.close()
        assert (await api.post(whole())).status == 202


async def test_bodies_count_by_what_has_arrived(settings: Settings) -> None:
    limits = {"api_max_held_bytes": 1000, "api_body_timeout_s": 30.0}
    async with running_api(settings.model_copy(update=limits)) as api:
        announced = [await half_a_request(api, b"", 100_000) for _ in range(5)]
        await eventually(lambda: api.role.running == ["5 requests"])
        assert (await api.post(whole())).status == 202
        assert is_problem(await api.post(whole(body="x" * 1000)), 429, "overloaded")
        for _, writer in announced:
            writer.close()
        await eventually(lambda: not api.role.running)
        gauge = api.around.context.metrics.registry.get_sample_value("notifyd_api_held_bytes")
        assert gauge == 0


# Browsers


async def test_a_page_of_a_listed_origin_may_send_and_no_other(api: Api) -> None:
    answer = await api.post(whole(), Origin="https://shop.example")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (202, "https://shop.example")
    answer = await api.post(b"{", Origin="https://shop.example")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (400, "https://shop.example")
    answer = await api.post(whole(), Origin="https://evil.example")
    assert is_problem(answer, 403, "origin_refused")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert len(await api.written()) == 1


# The end


async def test_what_was_asked_before_the_end_is_answered(api: Api) -> None:
    value = whole()
    reader, writer = await half_a_request(api, value[:-1], len(value))
    await eventually(lambda: bool(api.role.running))
    stopping = asyncio.create_task(api.role.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    writer.write(value[-1:])
    assert b" 202 " in await asyncio.wait_for(reader.readline(), 20)
    await asyncio.wait_for(stopping, 20)
    writer.close()


# Metrics


async def test_requests_are_counted_by_status_and_faults_by_reason(api: Api) -> None:
    await api.post(whole())
    await api.post({"toUserIds": [7], "content": {}})
    sample = api.around.context.metrics.registry.get_sample_value
    for status in ("202", "422"):
        labels = {"route": "/v1/messages", "status": status}
        assert sample("notifyd_api_requests_total", labels) == 1
    assert sample("notifyd_invalid_records_total", {"role": "api", "reason": "bad_user_id"}) == 1


# What it says of itself


async def test_every_answer_is_as_the_description_says(api: Api) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{api.port}/v1/openapi.json") as response,
    ):
        assert response.status == 200, "who reads it needs no token"
        document = await response.json()
    routes = {route.resource.canonical for route in api.around.context.public.router.routes()}
    assert set(document["paths"]) == routes
    answers = [
        await api.post(whole()),
        await api.post([json.loads(whole())]),
        await api.post(b"{"),
        await api.post({"toUserIds": [1], "content": {}}),
        await api.post(whole(), Authorization=None),
        await api.post(whole(), Content_Type="text/plain"),
        await api.post(b" " * 300_001),
    ]
    described = document["paths"]["/v1/messages"]["post"]["responses"]
    for answer in answers:
        (content,) = described[str(answer.status)]["content"].values()
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.body)
    assert [answer.status for answer in answers] == [202, 202, 400, 422, 401, 415, 413]
