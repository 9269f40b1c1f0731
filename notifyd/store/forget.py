"""A user is forgotten: rows go, or stay without the name and what was said; an entry tells how many.

A message to several stays theirs. Its envelope is written anew without the user once nobody's delivery of
it is open: until then a resend needs the bytes as they are (`Forgotten.later`; the next run does it).

Small transactions, each with the locks of all others in their order, so that `persist` goes on beside it. Cut
off at any point it is safe to run again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgspec

from notifyd.store.cipher import ContentCipher
from notifyd.store.events import days_params, refresh_messages
from notifyd.store.life import FINAL_STATES
from notifyd.store.pool import Database, Transaction
from notifyd.store.sql import query

#: Messages of one transaction: with 256 KiB each 16 MiB in memory, and locks that nobody waits for long.
_BATCH_MESSAGES: Final = 64
_BATCH_ROWS: Final = 1000
#: Messages of a day that are looked for at a time.
_FOUND: Final = 20_000

_Raw = dict[str, msgspec.Raw]


@dataclass(slots=True)
class Forgotten:
    """How many rows: `inbox` deleted; `deliveries` and `events` under an alias now; `contents` emptied, for
    nobody else had them; `redacted` written anew for the others; `early_events` deleted; `later`: messages
    to several that are under way and still name the user.
    """

    inbox: int = 0
    deliveries: int = 0
    events: int = 0
    contents: int = 0
    redacted: int = 0
    early_events: int = 0
    later: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forgetting:
    """An entry of the audit. `ended_at` None: it was cut off, or is under way."""

    begun_at: dt.datetime
    ended_at: dt.datetime | None
    actor: str
    alias: str
    counts: dict[str, int]


def digest_of(user: str) -> str:
    """Return what the audit knows a user by."""
    return hashlib.sha256(user.encode()).hexdigest()


async def read_forgettings(database: Database, user: str) -> list[Forgetting]:
    """Read when this user was forgotten, oldest first."""
    rows = await database.fetch(query("read_forgets"), {"digest": digest_of(user)})
    return [Forgetting(*row) for row in rows]


async def count_rows(database: Database, user: str) -> Forgotten:
    """Count the rows that name a user; changes nothing."""
    found = Forgotten()
    for day in await _days(database):
        [(inbox, deliveries, events)] = await database.fetch(
            query("count_rows_of_user"), {"user": user, "day": day}
        )
        found.inbox += inbox
        found.deliveries += deliveries
        found.events += events
    [(found.early_events,)] = await database.fetch(
        "SELECT count(*) FROM early_event WHERE event ->> 'u' = %(user)s", {"user": user}
    )
    return found


async def forget(
    database: Database,
    user: str,
    *,
    actor: str,
    on_progress: Callable[[str], None] = lambda day: None,
) -> Forgotten:
    """Forget a user, day by day, and leave an entry in `forget_audit`.

    Raises `TransientError` while the database is away, `ContentKeyError` where a message cannot be opened:
    what was done until then stays done, and another run goes on.
    """
    work = _Work(database, user, f"forgotten:{uuid.uuid4()}")
    await work.begin(actor)
    for day in await _days(database):
        on_progress(day)
        await work.forget_day(day)
    await work.end()
    return work.done


class _Work:
    """One run."""

    def __init__(self, database: Database, user: str, alias: str) -> None:
        self._database = database
        self._user = user
        self._alias = alias
        self._number = 0
        self.done = Forgotten()

    async def begin(self, actor: str) -> None:
        params = {"digest": digest_of(self._user), "alias": self._alias, "actor": actor}
        [(self._number,)] = await self._database.fetch(query("begin_forget"), params)

    async def forget_day(self, day: str) -> None:
        place = {"user": self._user, "day": day, "limit": _FOUND}
        seen: set[str] = set()
        while True:
            found = [i for (i,) in await self._database.fetch(query("find_rows_of_user"), place)]
            new = [i for i in found if i not in seen]
            for start in range(0, len(new), _BATCH_MESSAGES):
                await self._forget_messages(day, new[start : start + _BATCH_MESSAGES])
            seen.update(new)
            if len(found) < _FOUND or not new:
                return

    async def end(self) -> None:
        """Forget what belongs to no message, and the unread counter; close the entry."""
        params = {"user": self._user, "limit": _BATCH_ROWS}
        while count := len(await self._database.fetch(query("forget_early_events"), params)):
            self.done.early_events += count
        async with self._database.transaction() as tx:
            await tx.fetch(query("forget_keys"), {"user": self._user})
            if await tx.fetch(query("lock_user_state"), {"user": self._user}):
                await tx.fetch(query("end_user_state"), {"user": self._user})
            await self._count(tx, self.done, is_end=True)

    async def _forget_messages(self, day: str, ids: Sequence[str]) -> None:
        done = replace(self.done)
        async with self._database.transaction() as tx:
            await tx.fetch(query("lock_messages"), _keys(day, ids))
            who = {"user": self._user, "alias": self._alias}
            [(inbox, unread, ended)] = await tx.fetch(query("end_rows_of_user"), {**who, **_keys(day, ids)})
            if ended:
                await refresh_messages(tx, dict.fromkeys(ended, day))
            contents = await tx.fetch(query("read_contents"), _keys(day, ids))
            new, kept = _without_user(tx.content, self._user, contents)
            if new:
                values = {"values": list(new.values())}
                await tx.fetch(query("write_contents"), {**values, **_keys(day, list(new))})
            renamed = [i for i in ids if i not in kept]
            [(deliveries, events)] = await tx.fetch(
                query("rename_rows_of_user"), {**who, **_keys(day, renamed)}
            )
            done.inbox += inbox
            done.deliveries += deliveries
            done.events += events
            done.contents += sum(not raw for raw in new.values())
            done.redacted += sum(bool(raw) for raw in new.values())
            done.later += len(kept)
            await self._count(tx, done)
            await tx.commit(query("lower_unread"), {"user": self._user, "count": unread})
        self.done = done

    async def _count(self, tx: Transaction, done: Forgotten, *, is_end: bool = False) -> None:
        counts = json.dumps(done.as_json())
        await tx.fetch(query("count_forget"), {"number": self._number, "counts": counts, "is_end": is_end})


def _without_user(
    content: ContentCipher, user: str, contents: Sequence[tuple[Any, ...]]
) -> tuple[dict[str, bytes], set[str]]:
    """Return what is to be stored of messages without a user, by id, and those of which that has to wait."""
    new: dict[str, bytes] = {}
    kept: set[str] = set()
    for message_id, state, stored in contents:
        raw = content.open(message_id, bytes(stored))
        redacted = redact(raw, user)
        if redacted == raw:
            continue
        if redacted and state not in FINAL_STATES:
            kept.add(message_id)
        else:
            new[message_id] = content.seal(message_id, redacted) if redacted else redacted
    return new, kept


def _keys(day: str, ids: Sequence[str]) -> dict[str, object]:
    return {"ids": ids, "days": [day] * len(ids), **days_params([day])}


def redact(raw: bytes, user: str) -> bytes:
    """Return an envelope without one of its recipients and their contacts; empty where nobody else is left.

    Everything else stays byte for byte what it was, but for the space between the parts.
    """
    if not raw:
        return raw
    envelope = msgspec.json.decode(raw, type=_Raw)
    users = msgspec.json.decode(envelope["toUserIds"], type=list[str])
    others = [one for one in users if one != user]
    if not others:
        return b""
    content = msgspec.json.decode(envelope["content"], type=_Raw)
    contacts = msgspec.json.decode(content.get("contacts", b"null"), type=_Raw | None) or {}
    if len(others) == len(users) and user not in contacts:
        return raw
    envelope["toUserIds"] = msgspec.Raw(msgspec.json.encode(others))
    if contacts.pop(user, None) is not None:
        content["contacts"] = msgspec.Raw(msgspec.json.encode(contacts))
        envelope["content"] = msgspec.Raw(msgspec.json.encode(content))
    return msgspec.json.encode(envelope)


async def _days(database: Database) -> list[str]:
    found = await database.fetch(query("read_partitions"))
    return sorted({day for _, _, day, _, state in found if state == "attached"})
