"""When a delivery that failed is tried again: rungs, policy, decision. Pure.

A rung is a retry topic with a fixed delay. A record whose due time lies further ahead than one
rung goes through several, the largest that still fits each time, without an attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from notifyd.delivery.outcome import Dead, Retry
from notifyd.settings import Settings

#: The retry topics by name, with their delay in seconds, ascending.
RUNGS: Final[tuple[tuple[str, float], ...]] = (("5s", 5.0), ("1m", 60.0), ("10m", 600.0), ("1h", 3600.0))

#: The most that a peer's `Retry-After` is obeyed, in seconds. Eight attempts that far apart
#: (48 h) still end well within the week that topics keep their records.
MAX_RETRY_AFTER_S: Final = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart a channel tries.

    `max_attempts` includes the first. `rungs` are (name, delay in seconds), ascending: the
    n-th failure waits for the n-th rung, all later ones for the last.
    """

    max_attempts: int = 8
    rungs: tuple[tuple[str, float], ...] = RUNGS
    max_retry_after_s: float = MAX_RETRY_AFTER_S

    @classmethod
    def of(cls, settings: Settings) -> RetryPolicy:
        """Take the policy from the settings."""
        return cls(max_attempts=settings.retry_max_attempts)


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again: put the record on `rung`, due in `due_in_s` seconds, then as attempt `attempt`."""

    rung: str
    due_in_s: float
    attempt: int


def rung_for(delay_s: float, rungs: tuple[tuple[str, float], ...] = RUNGS) -> str:
    """Name the largest rung that fits into `delay_s`; the smallest one where none does."""
    fitting = [name for name, rung_s in rungs if rung_s <= delay_s]
    return fitting[-1] if fitting else rungs[0][0]


def decide(policy: RetryPolicy, outcome: Retry, attempt: int) -> RetryAt | Dead:
    """Say what follows on `outcome` of the attempt number `attempt` (from 1).

    A wait that the peer asked for is obeyed up to `policy.max_retry_after_s`, and never
    shorter than the smallest rung; one of zero or less says nothing, and the policy holds.
    An outcome that does not count comes back after the smallest rung as the same attempt.
    """
    if outcome.counts and attempt >= policy.max_attempts:
        cause = f"{outcome.reason}: {outcome.detail}" if outcome.detail else outcome.reason
        return Dead("attempts_exhausted", f"{attempt} attempts; the last: {cause}")
    smallest_s = policy.rungs[0][1]
    if outcome.after_s is not None and outcome.after_s > 0:
        due_in_s = max(min(outcome.after_s, policy.max_retry_after_s), smallest_s)
    elif outcome.counts:
        due_in_s = policy.rungs[min(max(attempt, 1), len(policy.rungs)) - 1][1]
    else:
        due_in_s = smallest_s
    return RetryAt(rung_for(due_in_s, policy.rungs), due_in_s, attempt + 1 if outcome.counts else attempt)
