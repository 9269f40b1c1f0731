"""The channel `webpush` and a push service that decrypts: a test for each row of its page in the docs."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from notifyd.channels.port import Delivery
from notifyd.channels.webpush import WebPushChannel
from notifyd.channels.webpush_request import new_keys
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Retry, Skip
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from tests.fixtures.push import make_message
from tests.fixtures.webpush import Browser
from tests.integration.webhook_peers import names, raw_server, read_request, receiver, reset

DOC = Path(__file__).resolve().parents[2] / "docs" / "reference" / "webpush.md"
PRIVATE, PUBLIC = new_keys()


@asynccontextmanager
async def channel(*, lookup: Any = None, **more: Any) -> AsyncIterator[WebPushChannel]:
    values = {
        "webpush_key": PRIVATE,
        "webpush_subject": "mailto:ops@shop.example",
        "webpush_timeout_s": 5.0,
        "webhook_allow_private": True,
        **more,
    }
    made = WebPushChannel(load_settings({}, **values), Metrics(), lookup=lookup)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def delivery(**content: Any) -> Delivery:
    return Delivery(make_message("ann", **content), "ann", "webpush", "", 1)


def contact(*browsers: Browser) -> Contact:
    return Contact(webpush=tuple(browser.subscription for browser in browsers))


async def test_each_browser_reads_its_own():
    async with receiver() as service, channel() as made:
        browsers = [Browser(f"http://127.0.0.1:{service.port}/s/{number}") for number in range(2)]
        sent = delivery(title="On its way", collapse_key="order 7")
        outcome = await made.send(sent, contact(*browsers, browsers[0]))
        assert outcome == Done("webpush[0] HTTP 200; webpush[1] HTTP 200")
        assert len(service.calls) == 2
        for call in service.calls:
            browser = browsers[int(call.path[-1])]
            told = json.loads(browser.decrypt(call.body))
            assert told["message"]["UUID"] == sent.message.id
            assert told["message"]["content"]["title"] == "On its way"
            assert call.headers["TTL"] == "2419200"
            assert call.headers["Authorization"].endswith(f",k={PUBLIC}")
            assert len(call.headers["Topic"]) == 32


async def test_each_message_comes_as_itself():
    async with receiver() as service, channel() as made:
        browser = Browser(f"http://127.0.0.1:{service.port}/s")
        for title in ("first", "second"):
            await made.send(delivery(title=title), contact(browser))
        told = [json.loads(browser.decrypt(call.body)) for call in service.calls]
    assert [one["message"]["content"]["title"] for one in told] == ["first", "second"]


ROWS = [
    (200, {}, Done("HTTP 200")),
    (201, {}, Done("HTTP 201")),
    (204, {}, Done("HTTP 204")),
    (301, {"Location": "https://push.example"}, Dead("redirected", "HTTP 301: redirects are not followed")),
    (400, {}, Dead("http_400", "HTTP 400")),
    (401, {}, Dead("http_401", "HTTP 401")),
    (403, {}, Dead("http_403", "HTTP 403")),
    (404, {}, Dead("gone", "HTTP 404", gone=(0,))),
    (408, {}, Retry("http_408", detail="HTTP 408")),
    (410, {}, Dead("gone", "HTTP 410", gone=(0,))),
    (413, {}, Dead("http_413", "HTTP 413")),
    (425, {}, Retry("http_425", detail="HTTP 425")),
    (429, {"Retry-After": "30"}, Retry("http_429", after_s=30.0, detail="HTTP 429")),
    (500, {}, Retry("http_500", detail="HTTP 500")),
    (503, {"Retry-After": "120"}, Retry("http_503", after_s=120.0, detail="HTTP 503")),
]


@pytest.mark.parametrize(
    ("status", "headers", "outcome"), ROWS, ids=lambda value: str(value) if isinstance(value, int) else ""
)
async def test_what_an_answer_means(status, headers, outcome):
    async with receiver() as service, channel() as made:
        service.status, service.headers = status, headers
        assert await made.send(delivery(), contact(Browser(f"http://127.0.0.1:{service.port}/s"))) == outcome
        assert len(service.calls) == 1


async def test_a_browser_that_left_is_not_missed_beside_another():
    async with receiver() as gone, receiver() as there, channel() as made:
        gone.status = 410
        browsers = [Browser(f"http://127.0.0.1:{one.port}/s") for one in (gone, there)]
        assert isinstance(await made.send(delivery(), contact(*browsers)), Done)


async def break_off(reader, writer):
    await read_request(reader)
    reset(writer)


async def never_answer(reader, writer):
    await reader.read()


async def slow_head(reader, writer):
    await read_request(reader)
    writer.write(b"HTTP/1.1 201 Created\r\n")
    while True:
        writer.write(b"x-a: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_body(reader, writer):
    await read_request(reader)
    writer.write(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def plain_text(reader, writer):
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def test_a_date_to_come_again():
    async with receiver() as service, channel() as made:
        service.status = 429
        service.headers = {"Retry-After": email.utils.formatdate(time.time() + 600, usegmt=True)}
        outcome = await made.send(delivery(), contact(Browser(f"http://127.0.0.1:{service.port}/s")))
    assert outcome.reason == "http_429"
    assert outcome.after_s == pytest.approx(600, abs=60)


async def test_the_status_is_the_answer_however_long_its_body():
    async with raw_server(endless_body) as endpoint, channel() as made:
        assert await made.send(delivery(), contact(Browser(endpoint))) == Done("HTTP 201")


async def test_a_service_without_tls():
    async with raw_server(plain_text) as endpoint, channel() as made:
        outcome = await made.send(delivery(), contact(Browser(endpoint.replace("http:", "https:"))))
    assert (type(outcome), outcome.reason) == (Retry, "tls_failed")


@pytest.mark.parametrize(
    ("peer", "reason"),
    [(break_off, "connection_lost"), (never_answer, "timeout"), (slow_head, "timeout")],
)
async def test_a_service_that_breaks_off_or_hangs(peer, reason):
    async with raw_server(peer) as endpoint, channel(webpush_timeout_s=0.5) as made:
        outcome = await made.send(delivery(), contact(Browser(endpoint)))
        assert (type(outcome), outcome.reason) == (Retry, reason)


async def test_a_service_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with channel() as made:
            browser = Browser(f"http://127.0.0.1:{taken.getsockname()[1]}/s")
            assert (await made.send(delivery(), contact(browser))).reason == "connect_failed"


async def test_an_endpoint_at_a_private_address_or_without_a_name():
    lookup = names({"inside.example": "10.0.0.7"})
    async with channel(lookup=lookup, webhook_allow_private=False) as made:
        refused = await made.send(delivery(), contact(Browser("https://inside.example/s")))
        assert (type(refused), refused.reason) == (Dead, "address_refused")
        unknown = await made.send(delivery(), contact(Browser("https://nowhere.example/s")))
        assert (type(unknown), unknown.reason) == (Retry, "dns_failed")
        plain = await made.send(delivery(), contact(Browser("http://push.example/s")))
        assert (type(plain), plain.reason) == (Dead, "https_required")


async def test_who_has_no_browser():
    async with channel() as made:
        assert await made.send(delivery(), Contact()) == Skip("no_address")


def test_the_docs_tell_of_each_reason():
    told = set(re.findall(r"`([a-z_0-9]+)`", DOC.read_text()))
    assert told >= {"gone", "redirected", "http_403", "http_413", "http_429", "http_503", "no_address"}
    assert told >= {"timeout", "connect_failed", "connection_lost", "tls_failed", "dns_failed", "host_busy"}
    assert told >= {"address_refused", "bad_url", "https_required", "bad_subscription"}
