"""Deliveries over all messages: what became of a user's, which are stuck, which took longest.

Each reads a bounded number of rows, through an index, and says so where there were more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from notifyd.store.days import ONE_DAY
from notifyd.store.events import days_params
from notifyd.store.life import Wait, time_text, wait_of
from notifyd.store.pool import Database
from notifyd.store.search import Found, Search, search_messages
from notifyd.store.sql import query

#: Rows that one question looks at, at most: a few hundred milliseconds.
SCAN_ROWS: Final = 50_000
#: The sweep puts off a look for ten minutes at most, and leases for two.
_AHEAD_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class FoundDelivery:
    """One delivery. `since`: for how long nobody has spoken of it, or since when it was due.

    `reached_at` its first success or its death; `waits_for` None where it has ended.
    """

    message_id: str
    user: str
    channel: str
    state: str
    attempts: int
    reason: str | None
    detail: str | None
    since: dt.datetime
    reached_at: dt.datetime | None = None
    waits_for: Wait | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints and HTTP answers."""
        took = None if self.reached_at is None else round((self.reached_at - self.since).total_seconds(), 3)
        return {
            "id": self.message_id,
            "user": self.user,
            "channel": self.channel,
            "state": self.state,
            "attempts": self.attempts,
            "reason": self.reason,
            "detail": self.detail,
            "since": time_text(self.since),
            "reached_at": time_text(self.reached_at),
            "took_s": took,
            "waits_for": None if self.waits_for is None else self.waits_for.what,
            "waits_until": None if self.waits_for is None else time_text(self.waits_for.until),
        }


@dataclass(frozen=True, slots=True)
class FoundDeliveries:
    """Deliveries in order; `is_partial`: more rows were there than were looked at (`SCAN_ROWS`)."""

    deliveries: list[FoundDelivery]
    is_partial: bool

    def as_json(self) -> dict[str, Any]:
        """Return what HTTP answers."""
        return {"deliveries": [one.as_json() for one in self.deliveries], "partial": self.is_partial}


async def find_stuck(
    database: Database, *, silent_s: float, limit: int, scan: int = SCAN_ROWS
) -> FoundDeliveries:
    """Find open deliveries of which nobody has spoken for `silent_s`, the longest silent first.

    Raises `TransientError` while the database is away.
    """
    params = {"silent_s": silent_s, "limit": limit, "scan": scan, "ahead_s": _AHEAD_S}
    rows = await database.fetch(query("find_stuck"), params)
    found = [
        FoundDelivery(
            message_id, user, channel, state, attempts, reason, detail, since,
            waits_for=wait_of(
                channel, state, attempts, reason, due_at=due_at, next_check_at=check_at, said_at=since
            ),
        )
        for message_id, user, channel, state, attempts, check_at, due_at, reason, detail, since, _ in rows
        if message_id is not None
    ]  # fmt: skip
    return FoundDeliveries(found, rows[0][-1] >= scan)


async def find_slowest(
    database: Database, *, since: dt.datetime, limit: int, scan: int = SCAN_ROWS
) -> FoundDeliveries:
    """Find what took longest of the messages accepted since then, the latest of them where there are many.

    Raises `TransientError` while the database is away.
    """
    # A message's day is its own: one sent late is in the partition of an earlier one.
    params = {"since": since.isoformat(), "first_day": (since.date() - ONE_DAY).isoformat()}
    rows = await database.fetch(query("find_slowest"), {**params, "limit": limit, "scan": scan})
    found = [
        FoundDelivery(message_id, user, channel, state, attempts, reason, detail, due_since, reached_at)
        for message_id, user, channel, state, attempts, due_since, reached_at, reason, detail, _ in rows
        if message_id is not None
    ]
    return FoundDeliveries(found, rows[0][-1] >= scan)


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A message of a user, and what became of it for this one."""

    message: Found
    deliveries: Sequence[FoundDelivery]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        parts = ("channel", "state", "attempts", "reason", "detail", "waits_for", "waits_until")
        return {
            "id": self.message.id,
            "state": self.message.state,
            "from": self.message.sender,
            "type": self.message.type or None,
            "accepted_at": time_text(self.message.accepted_at),
            "position": f"{self.message.partition}:{self.message.offset}",
            "deliveries": [
                {name: value for name, value in one.as_json().items() if name in parts}
                for one in self.deliveries
            ],
        }


async def read_user_messages(
    database: Database, user: str, *, limit: int, budget_s: float
) -> tuple[list[UserMessage], bool]:
    """Read the latest messages that came into a user's inbox; true where there may be more.

    Raises `TransientError` while the database is away.
    """
    page = await search_messages(database, Search(user=user), limit=limit, budget_s=budget_s)
    if not page.messages:
        return [], page.next is not None
    days = [found.day.isoformat() for found in page.messages]
    params = {"ids": [found.id for found in page.messages], "days": days, "user": user, **days_params(days)}
    deliveries: dict[str, list[FoundDelivery]] = {}
    for row in await database.fetch(query("read_deliveries_of_user"), params):
        deliveries.setdefault(row[0], []).append(_of_user(user, row))
    messages = [UserMessage(found, deliveries.get(found.id, [])) for found in page.messages]
    return messages, page.next is not None


def _of_user(user: str, row: Sequence[Any]) -> FoundDelivery:
    message_id, channel, state, attempts, check_at, due_at, reason, detail, is_over, at = row
    wait: Mapping[str, Any] = {"due_at": due_at, "next_check_at": check_at, "said_at": at}
    waits_for = None if is_over else wait_of(channel, state, attempts, reason, **wait)
    return FoundDelivery(
        message_id, user, channel, state, attempts, reason, detail, since=at, waits_for=waits_for
    )
