"""The life of a message as values: who, what, every stage, what it waits for, and what is not known of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from notifyd.delivery.overdue import FALLBACK, UNACKED_S

#: State of a message whose row is not there yet, though events of it are.
UNKNOWN: Final = "unknown"
#: A message in one of these goes on by itself no more.
FINAL_STATES: Final = frozenset({"done", "dead"})
#: What the record and the row of a message tell; of one that is not stored neither is known.
_OWN_STAGES: Final = ("accepted", "persisted")


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened, at `at` (UTC)."""

    stage: str
    at: dt.datetime
    pod: str | None = None
    attempt: int = 0
    reason: str | None = None
    detail: str | None = None
    due_at: dt.datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the form of DESIGN 18."""
        return {
            "stage": self.stage,
            "at": time_text(self.at),
            "pod": self.pod,
            "attempt": self.attempt,
            "reason": self.reason,
            "detail": self.detail,
            "due_at": time_text(self.due_at),
        }


@dataclass(frozen=True, slots=True)
class Wait:
    """What something waits for, in words; `until`: when that ends or is looked after; None: unknown."""

    what: str
    until: dt.datetime | None


def wait_of(
    channel: str,
    state: str,
    attempts: int,
    reason: str | None,
    *,
    due_at: dt.datetime | None,
    next_check_at: dt.datetime | None,
    said_at: dt.datetime | None = None,
) -> Wait:
    """Say what an open delivery waits for. `said_at`: when its last event happened."""
    if state == "scheduled":
        return Wait("its time (notBefore)", next_check_at)
    if state == "retry_wait":
        return Wait(f"attempt {attempts + 1}", due_at)
    if channel == "ws" and state == "sent":
        ends_at = None if said_at is None else said_at + dt.timedelta(seconds=UNACKED_S)
        return Wait("the client to acknowledge", ends_at)
    if channel == "ws":
        return Wait("the ws processes to say whether the user is there", next_check_at)
    if reason == FALLBACK and state == "pending":
        return Wait("the user to see the message on another channel", due_at)
    return Wait("an outcome, or the sweep to look after it", next_check_at)


@dataclass(frozen=True, slots=True)
class DeliveryLife:
    """One recipient by one channel. `next_check_at`: when the sweep looks after it."""

    user: str
    channel: str
    state: str
    attempts: int
    is_final: bool
    next_check_at: dt.datetime | None
    due_at: dt.datetime | None
    reason: str | None
    detail: str | None
    moments: tuple[Moment, ...]

    @property
    def waits_for(self) -> Wait | None:
        """What it waits for now; None where it has ended."""
        if self.is_final:
            return None
        return wait_of(
            self.channel,
            self.state,
            self.attempts,
            self.reason,
            due_at=self.due_at,
            next_check_at=self.next_check_at,
            said_at=self.moments[-1].at if self.moments else None,
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Stages of which nothing is stored, though they have happened or are due."""
        if self.state == "scheduled":
            return ()
        told = {moment.stage for moment in self.moments}
        if self.channel == "ws":
            if self.state == "acked":
                due: tuple[str, ...] = ("sent",)  # its event may be lost with a process: acked implies it
            else:
                due = () if self.is_final else ("sent", "acked")
            return tuple(stage for stage in due if stage not in told)
        attempts = {moment.attempt for moment in self.moments}
        lost = [f"attempt {number}" for number in range(1, self.attempts) if number not in attempts]
        return (*lost, *(() if self.is_final or self.state == "retry_wait" else ("outcome",)))

    def as_json(self) -> dict[str, Any]:
        """Return the form of DESIGN 18."""
        wait = self.waits_for
        return {
            "user": self.user,
            "channel": self.channel,
            "state": self.state,
            "attempts": self.attempts,
            "next_check_at": time_text(self.next_check_at),
            "events": [moment.as_json() for moment in self.moments],
            "waits_for": None if wait is None else wait.what,
            "waits_until": None if wait is None else time_text(wait.until),
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class MessageLife:
    """Everything known of a message. `position` is `partition:offset`; `envelope` without `content.contacts`,
    None where it is not stored, or everybody whom it was for was forgotten.

    `moments` are those of the message itself, and of deliveries that nothing else is known of yet.
    """

    id: str
    state: str
    envelope: dict[str, Any] | None
    position: str | None
    deliveries: tuple[DeliveryLife, ...]
    moments: tuple[Moment, ...]
    expires_at: dt.datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether the message has ended."""
        return self.state in FINAL_STATES

    @property
    def unknown(self) -> tuple[str, ...]:
        """Stages of the message itself of which nothing is stored."""
        return _OWN_STAGES if self.state == UNKNOWN else ()

    @property
    def span(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The first and the last moment of all."""
        times = [moment.at for moment in self._all_moments()]
        return (min(times), max(times)) if times else None

    def as_json(self) -> dict[str, Any]:
        """Return the form of DESIGN 18."""
        return {
            "id": self.id,
            "state": self.state,
            "envelope": self.envelope,
            "position": self.position,
            "deliveries": [delivery.as_json() for delivery in self.deliveries],
            "events": [moment.as_json() for moment in self.moments],
            "expires_at": time_text(self.expires_at),
            "unknown": list(self.unknown),
        }

    def _all_moments(self) -> Iterable[Moment]:
        yield from self.moments
        for delivery in self.deliveries:
            yield from delivery.moments


def time_text(at: dt.datetime | None) -> str | None:
    """Write a time as RFC 3339 in UTC, to the millisecond."""
    if at is None:
        return None
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
