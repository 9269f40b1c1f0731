"""Of a user's messages with the same `collapseKey` of one sender the inbox keeps the newest."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from notifyd.store import arrays
from notifyd.store.events import days_params
from notifyd.store.pool import Database, Transaction
from notifyd.store.sql import query


class Keyed(NamedTuple):
    """A message with a `collapseKey` that came into the inboxes of its recipients at `arrived_ms` (Unix)."""

    id: str
    day: str
    arrived_ms: int
    key: str
    recipients: Sequence[str]


def key_of(sender: str, collapse_key: str) -> str:
    """Return the UUID by which the database knows a `collapseKey`, which is content and is not told."""
    digest = hashlib.sha256(f"{len(sender)}:{sender}{collapse_key}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16]))


async def collapse(tx: Transaction, messages: Sequence[Keyed]) -> list[str]:
    """Let go of what these messages, whose inbox rows are there, replace, or of those that came too late.

    Returns the users whose unread counter is to look for something that has expired.
    """
    if not messages:
        return []
    rows = [(user, one) for one in messages for user in one.recipients]
    params = {
        "users": arrays.of_texts([user for user, _ in rows]),
        "keys": arrays.of_plain([one.key for _, one in rows]),
        "ids": arrays.of_plain([one.id for _, one in rows]),
        "days": arrays.of_plain([one.day for _, one in rows]),
        "arrived": arrays.of_plain([one.arrived_ms for _, one in rows]),
    }
    passed = await tx.fetch(query("settle_collapse"), params)
    if not passed:
        return []
    users = [user for user, _, _ in passed]
    lost: dict[str, object] = {
        "users": arrays.of_texts(users),
        "ids": arrays.of_plain([message_id for _, message_id, _ in passed]),
        "days": arrays.of_plain([day for _, _, day in passed]),
        **days_params(day for _, _, day in passed),
    }
    await tx.fetch(query("let_go_of_passed"), lost)
    return sorted(set(users))


async def read_newest(database: Database, user: str, keys: Sequence[str], channel: str) -> dict[str, str]:
    """Return, by key (made by `key_of`), the id of a user's newest message where that is for `channel`."""
    params = {"user": user, "keys": list(keys), "channel": channel}
    rows: Sequence[tuple[str, str]] = await database.fetch(query("read_newest"), params)
    return dict(rows)
