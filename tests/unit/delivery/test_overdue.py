"""What the sweep makes of a delivery past its deadline."""

from __future__ import annotations

from typing import Any

import pytest

from notifyd.delivery.overdue import Later, Overdue, Pod, Progress, Resend, Settle, judge

NOW_MS = 1_800_000_000_000


def overdue(**more: Any) -> Overdue:
    fields: dict[str, Any] = {
        "id": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        "day": "2026-11-24",
        "digest": "",
        "user": "alice",
        "channel": "webhook",
        "state": "pending",
        "run": "",
        "attempt": 0,
        "at_ms": NOW_MS - 100_000,
        "resends": 0,
        "pending_run": None,
        "incarnation": "life",
        "partition": 3,
        "offset": 10,
        "accepted_at_ms": NOW_MS - 100_000,
        "expires_at_ms": None,
        **more,
    }
    return Overdue(**fields)


def progress(**more: Any) -> Progress:
    fields: dict[str, Any] = {
        "incarnation": "life",
        "committed": {3: 11},
        "resend_is_done": True,
        "retry_is_done": True,
        "pods": (),
        **more,
    }
    return Progress(**fields)


def verdict(one: Overdue, others: Progress, max_resends: int = 3) -> object:
    return judge(one, others, now_ms=NOW_MS, max_resends=max_resends)


def test_what_deliver_has_passed_without_an_outcome_is_sent_again() -> None:
    assert verdict(overdue(), progress()) == Resend()


@pytest.mark.parametrize(
    ("one", "others"),
    [
        (overdue(), progress(committed={3: 10})),
        (overdue(), progress(committed={})),
        (overdue(state="retry_wait", attempt=2), progress(retry_is_done=False)),
        (overdue(run="019a"), progress(resend_is_done=False)),
        (overdue(run="019a"), progress(retry_is_done=False)),
        (overdue(pending_run="019a"), progress(resend_is_done=False)),
        (overdue(resends=3), progress(resend_is_done=False)),
    ],
)
def test_what_still_waits_in_a_topic_is_left_alone(one: Overdue, others: Progress) -> None:
    assert isinstance(verdict(one, others), Later)


def test_the_last_resend_without_an_outcome_is_its_end() -> None:
    assert verdict(overdue(run="019a", resends=2), progress()) == Resend()
    ended = verdict(overdue(run="019a", resends=3), progress())
    assert isinstance(ended, Settle)
    assert (ended.stage, ended.reason) == ("dead", "no_outcome")


def test_a_resend_under_way_when_its_sweeper_died_is_finished_first() -> None:
    assert verdict(overdue(run="019a", resends=3, pending_run="019b"), progress()) == Resend()


def test_too_late_is_expired_and_not_sent() -> None:
    assert verdict(overdue(expires_at_ms=NOW_MS), progress()) == Settle("expired", "expired")


def test_a_message_of_a_former_life_of_the_topic_is_sent_again() -> None:
    assert verdict(overdue(incarnation="before"), progress(committed={})) == Resend()


PUSH: dict[str, Any] = {"channel": "ws"}


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        # Two have passed it, and nobody was there.
        ((Pod({3: 0}, {3: 11}, True), Pod({3: 5}, {3: 20}, True)), Settle("stored", "absent")),
        # One has not come to it yet, or what it did is not stored.
        ((Pod({3: 0}, {3: 11}, True), Pod({3: 5}, {3: 10}, True)), Later),
        # One that started behind it has nothing to say of it.
        ((Pod({3: 0}, {3: 11}, True), Pod({3: 15}, {3: 15}, True)), Settle("stored", "absent")),
        # One is gone that had not passed it: perhaps it sent it.
        ((Pod({3: 0}, {3: 11}, True), Pod({3: 0}, {3: 9}, False)), Settle("stored", "pod_lost")),
        # One is gone that had.
        ((Pod({3: 0}, {3: 11}, True), Pod({3: 0}, {3: 11}, False)), Settle("stored", "absent")),
        # All are gone, and had passed it as they left.
        ((Pod({3: 0}, {3: 11}, False),), Settle("stored", "absent")),
        # Nobody is left who was there.
        ((Pod({3: 15}, {3: 20}, True),), Settle("stored", "pod_lost")),
        ((), Settle("stored", "pod_lost")),
    ],
)
def test_absent_users_and_lost_pods_are_told_apart(pods: tuple[Pod, ...], expected: object) -> None:
    found = verdict(overdue(**PUSH), progress(pods=pods))
    assert isinstance(found, Later) if expected is Later else found == expected


def test_a_push_that_is_never_acknowledged_ends_as_sent() -> None:
    assert isinstance(verdict(overdue(**PUSH, state="sent"), progress()), Later)
    old = overdue(**PUSH, state="sent", at_ms=NOW_MS - 25 * 3600 * 1000)
    assert verdict(old, progress()) == Settle("sent", "not_acknowledged", "no_acks")


def test_a_fallback_is_for_those_who_have_not_seen_the_message() -> None:
    waits = progress(committed={}, resend_is_done=False)
    assert verdict(overdue(is_fallback=True), waits) == Resend()
    assert verdict(overdue(is_fallback=True, is_seen=True), waits) == Settle("skipped", "seen")
    assert verdict(overdue(is_fallback=True, expires_at_ms=NOW_MS), waits) == Settle("expired", "expired")
    # Once begun it is a delivery like others.
    begun = overdue(is_fallback=True, pending_run="019a")
    assert isinstance(verdict(begun, waits), Later)
