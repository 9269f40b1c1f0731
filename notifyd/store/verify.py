"""Proof that the unread counters say what the inboxes hold, and their correction where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from notifyd.store.pool import Database
from notifyd.store.sql import query

#: Users of one statement.
_BATCH_USERS: Final = 500
#: Above every user id: of the last code point, longer than any.
_LAST: Final = "\U0010ffff" * 300


@dataclass(frozen=True, slots=True)
class Drift:
    """A user whose counter is not what the rows say. `kept` None: there is no counter.

    The two agree where not the counter is wrong but what is known beside it (days, expiry).
    """

    user: str
    kept: int | None
    counted: int


@dataclass(slots=True)
class Verified:
    """What was looked at: how many users have a counter, and who drifted."""

    users: int = 0
    drifts: list[Drift] = field(default_factory=list)


async def count_users(database: Database) -> int:
    """Estimate how many users there are."""
    [(count,)] = await database.fetch(
        "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'user_state'::regclass"
    )
    return int(count)


async def verify_inboxes(
    database: Database,
    *,
    user: str | None = None,
    fix: bool = False,
    on_progress: Callable[[int], None] = lambda users: None,
) -> Verified:
    """Compare all users' counters, or one user's, with their rows; with `fix` set them right.

    Safe on a living system: a counter and its rows are read at one moment, and are corrected behind the
    lock that everybody takes who changes them. Raises `TransientError` while the database is away.
    """
    verified = Verified()
    first, is_last = user or "", False
    while not is_last:
        last, users = user, 1
        if user is None:
            [(last, users)] = await database.fetch(
                query("last_of_users"), {"first": first, "limit": _BATCH_USERS}
            )
        is_last = user is not None or users < _BATCH_USERS
        bounds = {"first": first, "last": last if user is not None or not is_last else _LAST}
        drifts = [Drift(*row) for row in await database.fetch(query("verify_inboxes"), bounds)]
        if fix:
            for drift in drifts:
                await _correct(database, drift.user)
        verified.users += users
        verified.drifts += drifts
        on_progress(users)
        # Nothing stands between a text and itself with the first character there is.
        first = f"{last}\1"
    return verified


async def _correct(database: Database, user: str) -> None:
    async with database.transaction() as tx:
        await tx.fetch(query("begin_user_state"), {"user": user})
        await tx.fetch(query("lock_user_state"), {"user": user})
        await tx.fetch(query("correct_inbox"), {"user": user})
