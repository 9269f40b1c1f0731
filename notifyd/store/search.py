"""Search of an operator: messages by user, sender, type, state and time; the latest days first.

Within a day the newest comes first. A search that finds little reads much: after `budget_s` it returns
what it has, and where to go on.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from notifyd.store.days import midnight
from notifyd.store.inbox import TOP, Position, read_user_state
from notifyd.store.pool import Database
from notifyd.store.sql import query

STATES: Final = ("scheduled", "pending", "done", "dead")
#: A message's day is at most so far ahead of its arrival, with a day to spare.
_AHEAD: Final = dt.timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; None: any. `since` and `until` (not included) bound the arrival at Kafka."""

    user: str | None = None
    sender: str | None = None
    type: str | None = None
    state: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One message. `place` is where it stands within its day."""

    place: Position
    id: str
    day: dt.date
    accepted_at: dt.datetime
    state: str
    sender: str
    created_by: str
    type: str
    partition: int
    offset: int
    due_at: dt.datetime | None
    expires_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class FoundPage:
    """Messages in order; `next`, a day and a place in it, is where to go on, None at the end."""

    messages: list[Found]
    next: tuple[dt.date, Position] | None


async def search_messages(
    database: Database,
    search: Search,
    *,
    limit: int,
    before: tuple[dt.date, Position] | None = None,
    budget_s: float = 1.0,
) -> FoundPage:
    """Find up to `limit` messages. Raises `TransientError` while the database is away."""
    until = time.monotonic() + budget_s
    found: list[Found] = []
    days = await _days(database, search, before)
    for number, day in enumerate(days):
        top = before[1] if before is not None and day == before[0] else TOP
        if number and time.monotonic() > until:
            return FoundPage(found, (day, top))
        found += await _of_day(database, search, day, top, limit + 1 - len(found))
        if len(found) > limit:
            last = found[limit - 1]
            return FoundPage(found[:limit], (last.day, last.place))
    return FoundPage(found, None)


async def _days(
    database: Database, search: Search, before: tuple[dt.date, Position] | None
) -> Sequence[dt.date]:
    if search.user is not None:
        days = (await read_user_state(database, search.user)).days
    else:
        days = [day for (day,) in await database.fetch(query("read_stored_days"))]
    return [
        day
        for day in days
        if (before is None or day <= before[0])
        and (search.until is None or midnight(day) < search.until + _AHEAD)
    ]


async def _of_day(database: Database, search: Search, day: dt.date, top: Position, limit: int) -> list[Found]:
    params = {
        "day": day.isoformat(),
        "before_at": top.at.isoformat(),
        "before_id": top.message_id,
        "user": search.user,
        "sender": search.sender,
        "type": search.type,
        "state": search.state,
        "since": search.since and search.since.isoformat(),
        "until": search.until and search.until.isoformat(),
        "limit": limit,
    }
    name = "search_messages" if search.user is None else "search_messages_of_user"
    rows = await database.fetch(query(name), params)
    return [Found(Position(row[-1], row[0]), *row[:-1]) for row in rows]
