"""Rotation of content keys: which keys stored messages take, and old ones sealed anew with the first key.

Small transactions with the locks of all others in their order, beside a running system; each is done or not,
so that a rotation that was cut off is gone on with by the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from notifyd.errors import ConfigError
from notifyd.store.cipher import ContentKeyError
from notifyd.store.events import days_params
from notifyd.store.pool import Database
from notifyd.store.sql import query

#: Messages of one transaction: with 256 KiB each 16 MiB in memory, and locks that nobody waits for long.
_BATCH: Final = 64
_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(slots=True)
class Rotated:
    """`sealed`: messages written anew. `left`: those that no key of ours opens, by what they name."""

    sealed: int = 0
    left: Counter[str] = field(default_factory=Counter)
    #: The first of them by key, for people.
    errors: dict[str, ContentKeyError] = field(default_factory=dict)


async def count_keys(database: Database) -> Mapping[str | None, int]:
    """Count stored messages by the key that they take; None: they are stored as they are.

    Reads every message's first bytes. Raises `TransientError` while the database is away.
    """
    counts: Counter[str | None] = Counter()
    for day in await _days(database):
        for key_id, count in await database.fetch(query("count_content_keys"), {"day": day}):
            counts[key_id] += count
    return counts


async def rotate(
    database: Database, on_progress: Callable[[str, int], None] = lambda day, count: None
) -> Rotated:
    """Seal with the first key what is not: messages without a key, and those of other keys.

    Raises `ConfigError` where there is no key, `TransientError` while the database is away.
    """
    prefix = database.content.prefix
    if not prefix:
        raise ConfigError(
            "there is no key to encrypt with",
            reason="no_content_key",
            remedy="set NOTIFYD_CONTENT_KEYS; `notifyd keys new` makes one",
        )
    done = Rotated()
    for day in await _days(database):
        after = _FIRST_ID
        while True:
            place = {"day": day, "after": after, "prefix": prefix, "limit": _BATCH}
            ids = [i for (i,) in await database.fetch(query("find_other_keys"), place)]
            if not ids:
                break
            after = ids[-1]
            await _seal(database, day, ids, done)
            on_progress(day, done.sealed)
    return done


async def _seal(database: Database, day: str, ids: list[str], done: Rotated) -> None:
    content = database.content
    new: dict[str, bytes] = {}
    async with database.transaction() as tx:
        await tx.fetch(query("lock_messages"), _keys(day, ids))
        for message_id, _, stored in await tx.fetch(query("read_contents"), _keys(day, ids)):
            value = bytes(stored)
            if not value or value.startswith(content.prefix):
                continue  # forgotten, or done by somebody else meanwhile
            try:
                new[message_id] = content.seal(message_id, content.open(message_id, value))
            except ContentKeyError as error:
                done.left[error.key_id] += 1
                done.errors.setdefault(error.key_id, error)
        if new:
            values = {"values": list(new.values())}
            await tx.commit(query("write_contents"), {**values, **_keys(day, list(new))})
    done.sealed += len(new)


def _keys(day: str, ids: list[str]) -> dict[str, object]:
    return {"ids": ids, "days": [day] * len(ids), **days_params([day])}


async def _days(database: Database) -> list[str]:
    return sorted(day.isoformat() for (day,) in await database.fetch(query("read_stored_days")))
