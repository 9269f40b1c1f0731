from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest

from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits, decode, find_faults

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def test_the_least_that_can_be_said() -> None:
    parts = json.loads(build_envelope(to="alice", sender="orders", created_by="me"))
    assert list(parts) == ["from", "UUID", "content", "toUserIds", "createBy", "createDateTime"]
    assert parts["content"] == {"version": 1.1}
    assert parts["toUserIds"] == ["alice"]
    assert uuid.UUID(parts["UUID"]).version == 7
    assert dt.datetime.fromisoformat(parts["createDateTime"]).utcoffset() == dt.timedelta(0)


def test_everything_that_can_be_said_is_good() -> None:
    value = build_envelope(
        to=["alice", "bob"],
        sender="orders",
        created_by="me",
        title="Hi",
        body="there",
        type="greeting",
        url="https://example.com",
        data={"a": [1]},
        channels=["ws", "webhook"],
        contacts={"alice": {"email": ["a@b.c"]}},
        ttl="15m",
        expires_at=NOON + dt.timedelta(hours=3),
        not_before=NOON + dt.timedelta(hours=1),
        collapse_key="k",
        critical=True,
        fallback={"after": "15m", "channels": ["email"]},
        content={"x-own": 1, "title": "Hello"},
        id="7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6",
        created_at=NOON,
    )
    at_ms = int(NOON.timestamp() * 1000)
    assert find_faults(value, timestamp_ms=at_ms, limits=Limits()) == []
    message = decode(value, timestamp_ms=at_ms, limits=Limits())
    assert message.created_at_ms == at_ms
    assert message.content.title == "Hello"
    assert message.content.not_before_ms == at_ms + 3_600_000
    assert message.content.critical is True
    assert json.loads(value)["content"]["x-own"] == 1


def test_a_date_and_another_zone_are_told_as_they_should_be() -> None:
    day = build_envelope(to="a", sender="s", created_by="c", created_at=dt.date(2026, 11, 23))
    assert json.loads(day)["createDateTime"] == "2026-11-23"
    zone = dt.timezone(dt.timedelta(hours=2))
    time = build_envelope(to="a", sender="s", created_by="c", created_at=NOON.astimezone(zone))
    assert json.loads(time)["createDateTime"] == "2026-11-23T12:00:00.000Z"


def test_a_time_without_its_zone_is_refused_rather_than_guessed() -> None:
    with pytest.raises(ValueError, match="time zone"):
        build_envelope(to="a", sender="s", created_by="c", created_at=dt.datetime(2026, 11, 23))
