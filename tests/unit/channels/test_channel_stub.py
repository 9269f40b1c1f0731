import asyncio
import json

import pytest

from notifyd.channels.port import Delivery
from notifyd.channels.registry import build_channels
from notifyd.channels.stub import StubChannel
from notifyd.delivery.contact import NO_CONTACT
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.errors import ConfigError
from notifyd.message.envelope import Limits, Message, decode
from notifyd.metrics import Metrics
from notifyd.settings import Settings, load_settings


def message() -> Message:
    value = {
        "from": "orders",
        "UUID": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        "content": {"version": 1.1, "title": "On its way"},
        "toUserIds": ["alice"],
        "createBy": "orders-svc",
        "createDateTime": "2025-11-23T10:00:00Z",
    }
    return decode(
        json.dumps(value).encode(),
        timestamp_ms=1_763_892_000_000,
        limits=Limits.of(Settings()),
        is_exempt=True,
    )


async def answer(script: str, attempt: int) -> Outcome:
    delivery = Delivery(message(), "alice", "stub", "", attempt)
    return await StubChannel(script).send(delivery, NO_CONTACT)


async def test_each_attempt_gets_its_word_and_the_last_one_stays() -> None:
    answers = [await answer("retry, retry:30, busy, skip, dead, slow:0.001, done", n) for n in range(1, 9)]
    assert answers == [
        Retry("stub_retry", detail="by script"),
        Retry("stub_retry", after_s=30, detail="by script"),
        Retry("stub_busy", detail="by script", counts=False),
        Skip("stub_skip"),
        Dead("stub_dead", "by script"),
        Done("by script"),
        Done("by script"),
        Done("by script"),
    ]


async def test_without_a_script_all_is_done() -> None:
    assert await answer("", 1) == Done("by script")


async def test_hang_ends_only_when_cancelled() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer("hang", 1)


async def test_raise_raises() -> None:
    with pytest.raises(RuntimeError):
        await answer("raise", 1)


@pytest.mark.parametrize("script", ["maybe", "done,,done", "retry:", "retry:x", "done:3", "DONE"])
def test_a_wrong_script_names_the_setting_and_the_words(script: str) -> None:
    with pytest.raises(ConfigError, match=r"NOTIFYD_STUB_SCRIPT.*words:"):
        StubChannel(script)


def test_the_registry_knows_its_channels_by_name() -> None:
    channels = build_channels(Settings(), Metrics())
    assert set(channels) == {"webhook", "stub"}
    assert all(channels[name].name == name for name in channels)


def test_there_is_email_where_there_is_a_relay():
    settings = load_settings({}, smtp_url="smtp://relay.test", email_from="no-reply@shop.example")
    assert "email" in build_channels(settings, Metrics())
    assert "email" not in build_channels(Settings(), Metrics())
