"""The channel `apprise`: the real library, against a receiver of its plainest service."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from notifyd.channels.apprise import AppriseChannel
from notifyd.channels.port import Delivery
from notifyd.channels.registry import build_channels
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Retry, Skip
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from tests.fixtures.push import make_message
from tests.integration.webhook_peers import receiver


@asynccontextmanager
async def channel(**more: Any) -> AsyncIterator[AppriseChannel]:
    made = AppriseChannel(load_settings({}, **{"apprise_schemes": ("json",), **more}))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def delivery() -> Delivery:
    message = make_message("ann", title="On its way", body="Tuesday.", url="https://shop.example/o/7")
    return Delivery(message, "ann", "apprise", "", 1)


async def test_a_service_gets_what_is_shown():
    async with receiver() as service, channel() as made:
        url = f"json://127.0.0.1:{service.port}/hook"
        assert await made.send(delivery(), Contact(apprise=(url, url))) == Done("json")
        [call] = service.calls
        told = json.loads(call.body)
        assert (told["title"], told["message"]) == ("On its way", "Tuesday.\n\nhttps://shop.example/o/7")


async def test_what_a_service_does_not_take_is_tried_again():
    async with receiver() as service, channel() as made:
        service.status = 500
        outcome = await made.send(delivery(), Contact(apprise=(f"json://127.0.0.1:{service.port}",)))
        assert outcome == Retry("apprise_failed", detail="json did not take it")


async def test_only_schemes_on_the_list_are_called():
    async with receiver() as service, channel(apprise_schemes=("discord",)) as made:
        outcome = await made.send(delivery(), Contact(apprise=(f"json://127.0.0.1:{service.port}",)))
        assert outcome == Dead("scheme_refused", "the scheme is not on NOTIFYD_APPRISE_SCHEMES")
        assert service.calls == []


async def test_an_url_that_says_nothing_and_nobody_at_all():
    async with channel(apprise_schemes=("discord",)) as made:
        wrong = await made.send(delivery(), Contact(apprise=("discord://",)))
        assert wrong == Dead("bad_url", "the library cannot read the URL")
        assert await made.send(delivery(), Contact()) == Skip("no_address")


async def test_a_service_that_hangs_keeps_its_thread_and_nobody_waits():
    async with receiver() as service, channel(apprise_threads=1, apprise_timeout_s=0.3) as made:
        service.delay_s = 2.5
        contact = Contact(apprise=(f"json://127.0.0.1:{service.port}",))
        assert await made.send(delivery(), contact) == Retry("timeout", detail="no answer within 0.3 s")
        busy = await made.send(delivery(), contact)
        assert (busy.reason, busy.counts) == ("host_busy", False)
        service.delay_s = 0.0
        async with asyncio.timeout(20):
            while (await made.send(delivery(), contact)) != Done("json"):
                pass


def test_it_is_there_where_a_scheme_is_listed_and_the_library_installed(monkeypatch):
    settings = load_settings({"NOTIFYD_APPRISE_SCHEMES": "slack, tgram"})
    assert "apprise" in build_channels(settings, Metrics())
    assert "apprise" not in build_channels(load_settings({}), Metrics())
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match="is not installed") as error:
        build_channels(settings, Metrics())
    assert "notifyd[apprise]" in str(error.value.remedy)
