"""The inbox of a user, read: a page of it by keyset, newest first, and how much of it is unread.

The table is partitioned by the messages' days, a page is ordered by arrival. `user_state` knows in
which days a user has rows; they are read from the latest on, some at a time, until nothing of an
earlier day can belong to the page any more. Days with a row that arrived far from them are always read.
"""

from __future__ import annotations

import datetime as dt
import heapq
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from notifyd.store.cipher import ContentCipher, ContentKeyError
from notifyd.store.days import ONE_DAY, Reader, midnight, parse_days
from notifyd.store.events import days_params
from notifyd.store.pool import Database
from notifyd.store.sql import prepared, query

#: A row of a day that is not odd arrived less than this before or after it (is_odd_arrival).
_NEAR: Final = 2 * ONE_DAY
#: Days of the first statement, and of any.
_FIRST_DAYS: Final = 6
_MOST_DAYS: Final = 64
_LAST_ID: Final = 2**128 - 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in an inbox: what arrived at `at` with the id `message_id` (canonical) stands there."""

    at: dt.datetime
    message_id: str

    def just_above(self) -> Self:
        """Return the place that has this one below it, and nothing in between."""
        number = uuid.UUID(self.message_id).int
        if number == _LAST_ID:
            return replace(self, at=self.at + dt.timedelta(microseconds=1), message_id=str(uuid.UUID(int=0)))
        return replace(self, message_id=str(uuid.UUID(int=number + 1)))


#: Above everything.
TOP: Final = Position(dt.datetime.max.replace(tzinfo=dt.UTC), str(uuid.UUID(int=_LAST_ID)))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are asked for. `is_archived` None: either; `lacks` a change that they have not seen."""

    is_archived: bool | None = False
    lacks: str = ""
    type: str | None = None


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A message in a user's inbox, all times UTC."""

    message_id: str
    day: dt.date
    arrived_at: dt.datetime
    seen_at: dt.datetime | None
    read_at: dt.datetime | None
    archived_at: dt.datetime | None

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(self.arrived_at, self.message_id)


@dataclass(frozen=True, slots=True)
class UserState:
    """What is known of a user's inbox without reading it. `days`, `odd_days`: latest first."""

    unread: int = 0
    days: Sequence[dt.date] = ()
    odd_days: Sequence[dt.date] = ()
    may_expire: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first; `next` where to go on, None at the end."""

    rows: list[InboxRow]
    next: Position | None


async def read_user_state(reader: Reader, user: str) -> UserState:
    """Read what is known of a user; of one that nobody knows: nothing."""
    found = await reader.fetch(prepared("read_user_state"), {"user": user})
    if not found:
        return UserState()
    [(unread, days, odd_days, may_expire)] = found
    return UserState(unread, parse_days(days), parse_days(odd_days), may_expire)


async def read_page(
    database: Database, user: str, *, limit: int, before: Position = TOP, only: Filter | None = None
) -> Page:
    """Read the first `limit` rows of a user's inbox below a position; what has expired is left out.

    Raises `TransientError` while the database is away.
    """
    only = only or Filter()
    state = await read_user_state(database, user)
    read = prepared("read_inbox") if only.type is None else query("read_inbox_of_type")
    rows: list[InboxRow] = []
    chunks = _Chunks(state, before)
    for days in chunks:
        params = {
            "user": user,
            "days": [day.isoformat() for day in days],
            "first_day": min(days).isoformat(),
            "last_day": max(days).isoformat(),
            "before_at": before.at.isoformat(),
            "before_id": before.message_id,
            "is_archived": only.is_archived,
            "lacks": only.lacks,
            "type": only.type,
            "limit": limit + 1,
        }
        found = [InboxRow(*row) for row in await database.fetch(read, params)]
        merged = heapq.merge(rows, found, key=lambda row: row.position, reverse=True)
        rows = [row for row, _ in zip(merged, range(limit + 1), strict=False)]
        if only.lacks == "read" and before == TOP and len(rows) >= state.unread:
            break  # all others were read
        if len(rows) > limit and rows[limit].arrived_at >= chunks.latest_beyond():
            break
        chunks.expect(len(rows), limit + 1)
    return Page(rows[:limit], rows[limit - 1].position if len(rows) > limit else None)


async def read_originals(reader: Reader, rows: Sequence[InboxRow]) -> dict[str, bytes | ContentKeyError]:
    """Read the messages of these rows, by id, as they were produced, or why one cannot be opened."""
    if not rows:
        return {}
    days = [row.day.isoformat() for row in rows]
    params = {"ids": [row.message_id for row in rows], "days": days, **days_params(days)}
    found = await reader.fetch(prepared("read_originals"), params)
    return {key: _opened(reader.content, key, bytes(stored)) for key, stored, _ in found}


def _opened(content: ContentCipher, message_id: str, stored: bytes) -> bytes | ContentKeyError:
    try:
        return content.open(message_id, stored)
    except ContentKeyError as error:
        return error


class _Chunks:
    """The days to read, a few more each time: as many as the page seems to need."""

    def __init__(self, state: UserState, before: Position) -> None:
        odd = set(state.odd_days)
        self._odd = list(state.odd_days)
        # Anything of a later day arrived after the position.
        self._near = [
            day
            for day in state.days
            if day not in odd and (before == TOP or midnight(day) < before.at + _NEAR)
        ]
        self._read = 0
        self._size = _FIRST_DAYS

    def __iter__(self) -> Iterator[list[dt.date]]:
        while self._odd or self._read < len(self._near):
            near = self._near[self._read : self._read + self._size]
            self._read += len(near)
            days, self._odd = [*self._odd[:_MOST_DAYS], *near], self._odd[_MOST_DAYS:]
            yield days

    def expect(self, found: int, wanted: int) -> None:
        """Judge by what came out of the days so far how many more are needed."""
        per_day = max(found, 1) / max(self._read, 1)
        self._size = min(_MOST_DAYS, max(_FIRST_DAYS, int(1.2 * max(0, wanted - found) / per_day) + 2))

    def latest_beyond(self) -> dt.datetime:
        """Return the moment before which everything arrived that was not read yet."""
        if self._odd:
            return TOP.at
        if self._read == len(self._near):
            return dt.datetime.min.replace(tzinfo=dt.UTC)
        return midnight(self._near[self._read]) + _NEAR
