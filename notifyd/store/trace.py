"""The life of one message, read in one snapshot: who, what, every stage with time, pod and reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from notifyd.message.ids import is_time_ordered, time_of
from notifyd.store.pool import Database, Transaction
from notifyd.store.sql import query

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

#: State of a message whose row is not there yet, though events of it are.
UNKNOWN: Final = "unknown"
#: A message in one of these goes on by itself no more.
FINAL_STATES: Final = frozenset({"done", "dead"})


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
            "at": _text(self.at),
            "pod": self.pod,
            "attempt": self.attempt,
            "reason": self.reason,
        }


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

    def as_json(self) -> dict[str, Any]:
        """Return the form of DESIGN 18."""
        return {
            "user": self.user,
            "channel": self.channel,
            "state": self.state,
            "attempts": self.attempts,
            "next_check_at": None if self.next_check_at is None else _text(self.next_check_at),
            "events": [moment.as_json() for moment in self.moments],
        }


@dataclass(frozen=True, slots=True)
class MessageLife:
    """Everything known of a message. `envelope` without `content.contacts`; `position` as `partition:offset`.

    `moments` are those of the message itself, and of deliveries that nothing else is known of yet.
    """

    id: str
    state: str
    envelope: dict[str, Any] | None
    position: str | None
    deliveries: tuple[DeliveryLife, ...]
    moments: tuple[Moment, ...]

    @property
    def is_final(self) -> bool:
        """Whether the message has ended."""
        return self.state in FINAL_STATES

    def as_json(self) -> dict[str, Any]:
        """Return the form of DESIGN 18."""
        return {
            "id": self.id,
            "state": self.state,
            "envelope": self.envelope,
            "position": self.position,
            "deliveries": [delivery.as_json() for delivery in self.deliveries],
            "events": [moment.as_json() for moment in self.moments],
        }


async def read_trace(database: Database, message_id: str) -> dict[str, Any] | None:
    """Read the life of a message in the form of DESIGN 18; None for an id that nobody has seen.

    `message_id` is a UUID in any case. Raises `TransientError` while the database is away.
    """
    life = await read_life(database, message_id)
    return None if life is None else life.as_json()


async def read_life(database: Database, message_id: str, *, user: str | None = None) -> MessageLife | None:
    """Read the life of a message; None for an id that nobody has seen.

    With `user` what is this recipient's alone, and None where it is none.
    """
    message_id = message_id.lower()
    async with database.transaction(is_snapshot=True) as tx:
        day = await _day_of(tx, message_id)
        key = {"id": message_id, "day": day, "user": user}
        found = await tx.fetch(query("read_message"), key) if day is not None else []
        if user is not None and not (found and user in msgspec.json.decode(found[0][3])["toUserIds"]):
            return None
        if not found:
            early = await tx.fetch(query("read_early_events"), {"id": message_id})
            moments = tuple(_moment(row[2:]) for row in early)
            return MessageLife(message_id, UNKNOWN, None, None, (), moments) if early else None
        deliveries = await tx.fetch(query("read_deliveries"), key)
        events = await tx.fetch(query("read_events"), key)
    [(state, partition, offset, raw, accepted_at, persisted_at, pod, due_at, released_at)] = found
    moments_of: dict[tuple[str, str], list[Moment]] = {(row[0], row[1]): [] for row in deliveries}
    own = [Moment("accepted", accepted_at), Moment("persisted", persisted_at, pod, due_at=due_at)]
    if released_at is not None:
        own.append(Moment("released", released_at))
    for recipient, channel, *rest in events:
        # `read` of a message that had no ws delivery belongs to none of them.
        moments_of.get((recipient, channel), own).append(_moment(rest))
    return MessageLife(
        message_id,
        state,
        visible_envelope(bytes(raw)),
        f"{partition}:{offset}",
        tuple(
            DeliveryLife(
                recipient, channel, its_state, attempts, is_final, check_at, due, reason, detail, moments
            )
            for recipient, channel, its_state, attempts, check_at, due, reason, detail, is_final in deliveries
            for moments in [tuple(moments_of[recipient, channel])]
        ),
        tuple(own),
    )


def visible_envelope(raw: bytes) -> dict[str, Any]:
    """Decode an envelope as people may see it: without `content.contacts`, which holds secrets."""
    envelope: dict[str, Any] = msgspec.json.decode(raw)
    content = envelope.get("content")
    if isinstance(content, dict):
        content.pop("contacts", None)
    return envelope


async def _day_of(tx: Transaction, message_id: str) -> str | None:
    if is_time_ordered(message_id):
        try:
            return (_EPOCH + dt.timedelta(milliseconds=time_of(message_id))).date().isoformat()
        except OverflowError:
            return None
    days: dict[str, str] = dict(await tx.fetch(query("resolve_days"), {"ids": [message_id]}))
    return days.get(message_id)


def _moment(row: Any) -> Moment:
    stage, at, pod, attempt, reason, detail, due_at = row
    return Moment(stage, at, pod, attempt, reason, detail, due_at)


def _text(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
