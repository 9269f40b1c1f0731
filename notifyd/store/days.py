"""Days: in which partition a message is, and in which of them a user has anything."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Final, Protocol

from notifyd.message.ids import is_time_ordered, time_of
from notifyd.store.cipher import ContentCipher
from notifyd.store.pool import Params, Row
from notifyd.store.sql import Prepared, query

_EPOCH: Final = dt.date(1970, 1, 1)
_DAY_MS: Final = 86_400_000
_RANGE: Final = re.compile(r"\[(\d{4}-\d\d-\d\d),(\d{4}-\d\d-\d\d)\)")

ONE_DAY: Final = dt.timedelta(days=1)


class Reader(Protocol):
    """A database, or a transaction of it."""

    content: ContentCipher

    async def fetch(self, sql: str | Prepared, params: Params | None = None) -> list[Row]:
        """Run a statement and return its rows."""


def day_of_id(message_id: str) -> dt.date | None:
    """Return the day within a canonical id of version 7; None for any other, or one beyond the calendar."""
    if not is_time_ordered(message_id):
        return None
    try:
        return _EPOCH + dt.timedelta(days=time_of(message_id) // _DAY_MS)
    except OverflowError:
        return None


async def days_of_ids(reader: Reader, ids: Iterable[str]) -> dict[str, dt.date]:
    """Find the day of each canonical id, as far as it is known to have one."""
    days: dict[str, dt.date] = {}
    unordered = []
    for message_id in ids:
        day = day_of_id(message_id)
        if day is not None:
            days[message_id] = day
        elif not is_time_ordered(message_id):
            unordered.append(message_id)
    if unordered:
        for message_id, text in await reader.fetch(query("resolve_days"), {"ids": unordered}):
            if text[0].isdigit():
                days[message_id] = dt.date.fromisoformat(text)
    return days


def format_days(days: Iterable[str]) -> str:
    """Write days (ISO) as a `datemultirange` in its text form, not yet merged to spans."""
    return "{" + ",".join([f"[{day},{day}]" for day in days]) + "}"


def parse_days(multirange: str) -> list[dt.date]:
    """Spell out a `datemultirange` in its text form, latest day first."""
    spans = [(dt.date.fromisoformat(a), dt.date.fromisoformat(b)) for a, b in _RANGE.findall(multirange)]
    return [
        end - ONE_DAY * back for start, end in reversed(spans) for back in range(1, (end - start).days + 1)
    ]


def midnight(day: dt.date) -> dt.datetime:
    """Return the moment at which a day begins (UTC)."""
    return dt.datetime.combine(day, dt.time.min, dt.UTC)
