"""Maintainers are told by a real webhook: once for many, again after a while, whoever answers how."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from standardwebhooks import Webhook

from notifyd.metrics import Metrics
from notifyd.roles.alarms import Alarms
from notifyd.settings import Settings
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import WebhookReceiver
from tests.unit.roles.test_alarm_digest import dead

SECRET = base64.b64encode(b"s" * 32).decode()


@asynccontextmanager
async def alarms_to(url: str, *, every_s: float = 300.0, **settings: object) -> AsyncIterator[Alarms]:
    told = Settings(sweep_alarm_url=url, sweep_alarm_secret=f"whsec_{SECRET}", pod_name="sweep-0", **settings)
    alarms = Alarms(told, Metrics(), every_s=every_s)
    await alarms.start()
    try:
        yield alarms
    finally:
        await alarms.stop()


async def test_many_deaths_are_one_signed_call_and_what_comes_later_the_next(
    webhook_receiver: WebhookReceiver,
) -> None:
    async with alarms_to(webhook_receiver.url(), every_s=2, sweep_alarm_allow_private=True) as alarms:
        for number in range(200):
            alarms.raise_for("no_outcome", dead(f"m{number}"))
        await eventually(lambda: webhook_receiver.calls, what="the alarm")
        for number in range(100):
            alarms.raise_for("no_outcome", dead(f"n{number}"))
        await eventually(lambda: len(webhook_receiver.calls) == 2, what="the next")
    told = []
    for call in webhook_receiver.calls:
        Webhook(SECRET).verify(call.body, dict(call.headers))
        told.append(json.loads(call.body))
    assert [(one["type"], one["reason"], one["deliveries"], one["message_id"]) for one in told] == [
        ("notifyd.deliveries_dead", "no_outcome", 200, "m0"),
        ("notifyd.deliveries_dead", "no_outcome", 100, "n0"),
    ]
    assert len({call.webhook_id for call in webhook_receiver.calls}) == 2


async def test_a_receiver_that_was_away_is_called_again_under_the_same_id(
    webhook_receiver: WebhookReceiver,
) -> None:
    url = webhook_receiver.script("/alarms", 503, 200)
    with structlog.testing.capture_logs() as lines:
        async with alarms_to(url, every_s=1, sweep_alarm_allow_private=True) as alarms:
            alarms.raise_for("no_outcome", dead("m0"))
            await eventually(lambda: len(webhook_receiver.calls) == 2, what="the second call")
    assert len({(call.webhook_id, call.body) for call in webhook_receiver.calls}) == 1
    assert [line["reason"] for line in lines if line["event"] == "alarm_waits"] == ["http_503"]


async def test_what_is_not_told_yet_is_told_at_the_end(webhook_receiver: WebhookReceiver) -> None:
    with structlog.testing.capture_logs() as lines:
        async with alarms_to(webhook_receiver.url(), sweep_alarm_allow_private=True) as alarms:
            alarms.raise_for("no_outcome", dead("m0"))
            await eventually(lambda: webhook_receiver.calls, what="the alarm")
            alarms.raise_for("no_outcome", dead("m1"))
    assert [json.loads(call.body)["message_id"] for call in webhook_receiver.calls] == ["m0", "m1"]
    assert [line["message_id"] for line in lines if line["event"] == "deliveries_dead"] == ["m0", "m1"]


async def test_a_private_address_is_not_called_unless_that_is_allowed(
    webhook_receiver: WebhookReceiver,
) -> None:
    url = webhook_receiver.url().replace("http://", "https://")
    with structlog.testing.capture_logs() as lines:
        async with alarms_to(url) as alarms:
            alarms.raise_for("no_outcome", dead("m0"))
            await eventually(lambda: "alarm_refused" in {line["event"] for line in lines}, what="the refusal")
    assert [line["reason"] for line in lines if line["event"] == "alarm_refused"] == ["address_refused"]
    assert webhook_receiver.calls == []


async def test_without_a_receiver_it_is_for_the_log_alone() -> None:
    with structlog.testing.capture_logs() as lines:
        alarms = Alarms(Settings(), Metrics())
        await alarms.start()
        alarms.raise_for("no_outcome", dead("m0"))
        await eventually(lambda: lines, what="the line")
        await alarms.stop()
    assert [(line["event"], line["deliveries"]) for line in lines] == [("deliveries_dead", 1)]
