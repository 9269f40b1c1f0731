"""What a user does with the inbox: seen, read, archived, with the unread counter in the same transaction.

As everywhere, the messages' rows are locked first, in one order, and `user_state` last: see the top of
migrations/0001_schema.sql.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from notifyd.store.days import days_of_ids, parse_days
from notifyd.store.events import days_params
from notifyd.store.inbox import Filter, Position, read_page, read_user_state
from notifyd.store.pool import Database, Transaction
from notifyd.store.sql import query

Change = Literal["seen", "read", "archived"]

#: Rows of one transaction: what it locks, others wait for.
BATCH_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class Marked:
    """What changed: ids, and how many are unread now; `next` where to go on, None when all is done."""

    ids: list[str]
    unread: int
    next: Position | None = None


async def mark_ids(database: Database, user: str, change: Change, ids: Sequence[str], *, pod: str) -> Marked:
    """Mark messages (canonical ids) of a user; those that are not the user's change nothing.

    One transaction, so call it with `BATCH_ROWS` ids at most. Raises `TransientError`: where that was at
    the commit nobody can tell, and to call again is right.
    """
    async with database.transaction() as tx:
        days = await days_of_ids(tx, dict.fromkeys(ids))
        changed = await _mark(tx, user, change, days, pod)
        state = await read_user_state(tx, user)
    return Marked(changed, state.unread)


async def mark_up_to(
    database: Database, user: str, change: Change, position: Position, pod: str, *, limit: int
) -> Marked:
    """Mark what stands at a position of a user's inbox and below it, newest first, `limit` rows at most.

    A transaction for every `BATCH_ROWS` rows; after an error those before it stay marked.
    """
    changed: list[str] = []
    only = Filter(is_archived=None, lacks=change)
    below: Position | None = position.just_above()
    unread = (await read_user_state(database, user)).unread
    while below is not None and len(changed) < limit:
        if change == "read" and not unread:
            return Marked(changed, unread)
        rows = min(BATCH_ROWS, limit - len(changed))
        page = await read_page(database, user, limit=rows, before=below, only=only)
        below = page.next
        if page.rows:
            async with database.transaction() as tx:
                changed += await _mark(tx, user, change, {row.message_id: row.day for row in page.rows}, pod)
                unread = (await read_user_state(tx, user)).unread
    return Marked(changed, unread, below)


async def read_unread(database: Database, user: str) -> int:
    """Count what a user has not read; unread messages that have expired since are let go of first."""
    state = await read_user_state(database, user)
    if state.may_expire:
        await expire(database, user, state.days)
        state = await read_user_state(database, user)
    return state.unread


async def expire(database: Database, user: str, days: Sequence[dt.date]) -> None:
    """Drop a user's unread rows that have expired, and find out when the next one will."""
    params = {"user": user, "days": [day.isoformat() for day in days], "limit": BATCH_ROWS}
    while True:
        found = await database.fetch(query("read_expired"), params)
        async with database.transaction() as tx:
            if found:
                keys = _keys({i: dt.date.fromisoformat(day) for i, day in found})
                await tx.fetch(query("lock_messages"), keys)
                await tx.fetch(query("expire_inbox"), {"user": user, **keys})
            if len(found) < BATCH_ROWS:
                # What was added since the days were read is in there as well.
                [(_, known)] = await tx.fetch(query("lock_user_state"), {"user": user})
                known_days = [day.isoformat() for day in parse_days(known)]
                await tx.fetch(query("move_first_expiry"), {"user": user, "days": known_days})
                return


async def _mark(
    tx: Transaction, user: str, change: Change, days: Mapping[str, dt.date], pod: str
) -> list[str]:
    if not days:
        return []
    keys = _keys(days)
    await tx.fetch(query("lock_messages"), keys)
    found = await tx.fetch(query("mark_inbox"), {"user": user, "change": change, "pod": pod, **keys})
    return [message_id for (message_id,) in found]


def _keys(days: Mapping[str, dt.date]) -> dict[str, object]:
    """Return keys (id -> day) as the statements take them, in the order in which all lock them."""
    ids = sorted(days)
    texts = [days[i].isoformat() for i in ids]
    return {"ids": ids, "days": texts, **days_params(texts)}
