"""Contacts over HTTP: what is written is what `deliver` reads from the topic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio

from notifyd.push.auth import issue_token
from notifyd.settings import Settings
from notifyd.stream.contacts import Contacts
from tests.fixtures.api import Api, running_api
from tests.fixtures.waiting import eventually

URL = "https://hooks.example.com/in"
WHOLE = {"webhook": [{"url": URL, "secret": "whsec_c2VjcmV0"}], "email": ["a@b.example"]}
OPS = ("notify:ops",)


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with running_api(settings) as running:
        yield running


async def call(
    api: Api, method: str, user: str, body: Any = None, *, scopes: tuple[str, ...] = OPS
) -> tuple[int, Any]:
    token = issue_token(api.around.context.settings, "shop", scopes)
    url = f"http://127.0.0.1:{api.port}/v1/contacts/{user}"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.request(method, url, json=body) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_a_contact_is_written_shown_and_removed(api: Api) -> None:
    context = api.around.context
    contacts = Contacts(context.settings, context.metrics, context.incarnation, context.fail)
    await contacts.start()
    await contacts.wait()
    try:
        assert (await call(api, "GET", "alice"))[0] == 404
        assert await call(api, "PUT", "alice", WHOLE) == (200, {"user": "alice", "ok": True})
        await eventually(lambda: contacts.get("alice") is not None, what="the contact to be known")
        shown = {**WHOLE, "webhook": [{"url": URL, "secret": "(not shown)"}]}
        assert await call(api, "GET", "alice") == (200, shown)
        assert await call(api, "DELETE", "alice") == (200, {"user": "alice", "ok": True})
        await eventually(lambda: contacts.get("alice") is None, what="the contact to be gone")
        assert (await call(api, "GET", "alice"))[0] == 404
    finally:
        await contacts.stop()


async def test_what_deliver_could_not_read_is_refused_with_its_place(api: Api) -> None:
    for body, pointer in (
        ({"webhook": [{}]}, "/webhook/0"),
        ({"email": ["a@b.example", ""]}, "/email/1"),
        ({"userId": "bob"}, "/userId"),
    ):
        status, problem = await call(api, "PUT", "alice", body)
        assert (status, problem["code"]) == (422, "bad_contact")
        assert problem["errors"][0]["pointer"].startswith(pointer)
    # What GET has in the place of a secret is none.
    assert (await call(api, "PUT", "alice", {"webhook": [{"url": URL, "secret": "(not shown)"}]}))[0] == 422
    assert (await call(api, "PUT", "a" * 129, WHOLE))[0] == 400
    assert (await call(api, "PUT", "alice", WHOLE, scopes=("notify:send",)))[0] == 403
    assert (await call(api, "GET", "alice", scopes=()))[0] == 403
    assert await api.around.records(api.around.topics.contacts) == []
