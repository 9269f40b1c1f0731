"""Alarms are counted by reason, and each reason is told once in a while."""

from __future__ import annotations

import pytest

from notifyd.delivery.overdue import Overdue
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.roles.alarms import Alarms, Digest
from notifyd.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def dead(message_id: str) -> Overdue:
    return Overdue(
        id=message_id,
        day="2026-11-28",
        digest="",
        user="alice",
        channel="webhook",
        state="pending",
        run="",
        attempt=0,
        at_ms=0,
        resends=3,
        pending_run=None,
        incarnation="",
        partition=0,
        offset=0,
        accepted_at_ms=0,
        expires_at_ms=None,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_reason_is_told_once_in_its_time_with_all_that_came(clock: Clock) -> None:
    digest = Digest(300, clock)
    for number in range(3):
        digest.add("no_outcome", dead(f"m{number}"), at_ms=1000 + number)
    digest.add("other", dead("m9"), at_ms=1009)
    first, second = digest.take()
    assert (first.reason, first.deliveries, first.message_id, first.since_ms) == ("no_outcome", 3, "m0", 1000)
    assert (second.reason, second.deliveries) == ("other", 1)
    assert digest.take() == []
    for number in range(5):
        digest.add("no_outcome", dead(f"n{number}"), at_ms=2000)
    clock.now += 299
    assert digest.take() == []
    clock.now += 1
    [later] = digest.take()
    assert (later.deliveries, later.message_id, later.since_ms) == (5, "n0", 2000)


def test_what_is_held_goes_on_being_counted_and_the_last_look_takes_all(clock: Clock) -> None:
    digest = Digest(300, clock)
    digest.add("a", dead("m0"), at_ms=1)
    assert digest.take(held={"a"}) == []
    digest.add("a", dead("m1"), at_ms=2)
    [tally] = digest.take(held=set())
    assert tally.deliveries == 2
    digest.add("a", dead("m2"), at_ms=3)
    [tally] = digest.take(is_last=True)
    assert tally.deliveries == 1


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"sweep_alarm_url": "http://alerts.example/x"}, "NOTIFYD_SWEEP_ALARM_URL: the URL is not https"),
        ({"sweep_alarm_url": "https://u:p@alerts.example/x"}, "NOTIFYD_SWEEP_ALARM_URL"),
        (
            {"sweep_alarm_url": "https://alerts.example/x", "sweep_alarm_secret": "no base64!"},
            "NOTIFYD_SWEEP_ALARM_SECRET",
        ),
    ],
)
def test_an_alarm_that_cannot_be_sent_is_said_before_the_role_starts(
    settings: dict[str, str], variable: str
) -> None:
    with pytest.raises(ConfigError, match=variable) as caught:
        Alarms(Settings(**settings), Metrics())
    assert caught.value.remedy
