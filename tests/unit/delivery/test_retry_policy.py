import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.delivery.outcome import Dead, Retry
from notifyd.delivery.retry import MAX_RETRY_AFTER_S, RUNGS, RetryAt, RetryPolicy, decide, rung_for
from notifyd.settings import Settings

POLICY = RetryPolicy()


@pytest.mark.parametrize(
    ("delay_s", "rung"),
    [(0, "5s"), (4.9, "5s"), (5, "5s"), (59.9, "5s"), (60, "1m"), (600, "10m"), (3599, "10m"), (1e6, "1h")],
)
def test_the_rung_is_the_largest_that_fits(delay_s: float, rung: str) -> None:
    assert rung_for(delay_s) == rung


def test_failures_climb_the_rungs_and_stay_on_the_last() -> None:
    decisions = [decide(POLICY, Retry("http_503"), attempt) for attempt in range(1, 8)]
    assert decisions == [
        RetryAt("5s", 5, 2),
        RetryAt("1m", 60, 3),
        RetryAt("10m", 600, 4),
        RetryAt("1h", 3600, 5),
        RetryAt("1h", 3600, 6),
        RetryAt("1h", 3600, 7),
        RetryAt("1h", 3600, 8),
    ]


def test_the_last_failure_is_dead_and_keeps_its_cause() -> None:
    dead = decide(POLICY, Retry("http_503", detail="HTTP 503"), 8)
    assert dead == Dead("attempts_exhausted", "8 attempts; the last: http_503: HTTP 503")


def test_one_attempt_allowed_means_no_retry() -> None:
    policy = RetryPolicy.of(Settings(retry_max_attempts=1))
    assert isinstance(decide(policy, Retry("timeout"), 1), Dead)


def test_what_the_peer_asked_for_is_obeyed() -> None:
    assert decide(POLICY, Retry("http_429", after_s=90), 1) == RetryAt("1m", 90, 2)
    assert decide(POLICY, Retry("http_429", after_s=7), 5) == RetryAt("5s", 7, 6)


def test_a_wait_shorter_than_the_smallest_rung_is_that_rung() -> None:
    assert decide(POLICY, Retry("http_429", after_s=0.2), 3) == RetryAt("5s", 5, 4)


def test_a_wait_beyond_the_cap_is_the_cap() -> None:
    assert decide(POLICY, Retry("http_429", after_s=math.inf), 1) == RetryAt("1h", MAX_RETRY_AFTER_S, 2)


@pytest.mark.parametrize("nothing", [0, -5, math.nan])
def test_a_wait_of_nothing_leaves_it_to_the_policy(nothing: float) -> None:
    assert decide(POLICY, Retry("http_429", after_s=nothing), 2) == RetryAt("1m", 60, 3)


def test_what_was_not_attempted_does_not_count_even_after_the_last_attempt() -> None:
    assert decide(POLICY, Retry("host_busy", counts=False), 8) == RetryAt("5s", 5, 8)


@given(
    after_s=st.none() | st.floats(),
    attempt=st.integers(1, 20),
    max_attempts=st.integers(1, 20),
    counts=st.booleans(),
)
def test_every_decision_fits_its_rung(
    after_s: float | None, attempt: int, max_attempts: int, counts: bool
) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)
    decision = decide(policy, Retry("x", after_s=after_s, counts=counts), attempt)
    if isinstance(decision, Dead):
        assert counts
        assert attempt >= max_attempts
    else:
        assert dict(RUNGS)[decision.rung] <= decision.due_in_s <= MAX_RETRY_AFTER_S
        assert decision.attempt == attempt + counts
