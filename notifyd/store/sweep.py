"""The sweep's side of the tables: who leads, what is overdue, what was done about it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from notifyd.delivery.overdue import Overdue, Pod
from notifyd.log import get_logger
from notifyd.store import arrays
from notifyd.store.alone import alone
from notifyd.store.cipher import ContentKeyError
from notifyd.store.events import days_params
from notifyd.store.pool import Database, Transaction
from notifyd.store.sql import prepared, query

#: Nothing is known of a new day's tables, and the planner would rather read the whole of them.
_BY_KEY: Final = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "

_log = get_logger(component="sweep")


@dataclass(frozen=True, slots=True)
class Original:
    """A message as its producer wrote it: the bytes, and the trace that was named with them, if any."""

    raw: bytes
    traceparent: str | None


class Leadership:
    """Held for as long as its transaction is open: the server ends it with the connection."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def confirm(self) -> None:
        """Raise `TransientError` where the connection, and so the lead, is lost."""
        await self._tx.fetch("SELECT 1")


class SweepStore:
    """Reads and leases what is overdue; safe for several sweepers at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def lead(self) -> AsyncIterator[Leadership | None]:
        """Try to become the leader until the block ends; None where another is."""
        async with alone(self._database, "notifyd.sweep") as tx:
            yield Leadership(tx) if tx is not None else None

    async def marks(self, incarnation: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Return below which offset of each partition every row is stored."""
        params = {"incarnation": incarnation, "topic": topic, "partitions": list(partitions)}
        rows = await self._database.fetch(query("read_past_marks"), params)
        return {partition: end for partition, _, end in rows}

    async def pods(self, incarnation: str) -> tuple[Pod, ...]:
        """Return the `ws` processes that were heard of in this incarnation."""
        rows = await self._database.fetch(query("read_pods"), {"incarnation": incarnation})
        return tuple(
            Pod(
                start={int(number): offset for number, offset in starts.items()},
                done={int(number): offset for number, offset in done.items()},
                is_live=is_live,
            )
            for starts, done, is_live in rows
        )

    async def claim_due(self, horizon_ms: int, *, limit: int, lease_s: float) -> list[Overdue]:
        """Lease what is due to be looked at, the longest waiting first."""
        async with self._database.transaction() as tx:
            return await _lease_due(tx, horizon_ms, limit, lease_s)

    async def peek_due(self, horizon_ms: int, *, limit: int) -> list[Overdue]:
        """Return what `claim_due` would lease, and lease nothing."""
        async with self._database.transaction() as tx:
            found = await _lease_due(tx, horizon_ms, limit, 0.0)
            await tx.rollback()
        return found

    async def claim_scheduled(self, *, limit: int, lease_s: float) -> dict[str, Original]:
        """Lease messages whose time has come, by id.

        One that cannot be opened is leased and left out, so that it is looked at again.
        """
        rows = await self._database.fetch(query("claim_scheduled"), {"limit": limit, "lease_s": lease_s})
        return self._open(rows)

    async def originals(self, found: Sequence[Overdue]) -> dict[str, Original]:
        """Read messages by id; those that are gone or cannot be opened are left out."""
        days = {one.id: one.day for one in found}
        params = {"ids": list(days), "days": list(days.values()), **days_params(days.values())}
        rows = await self._database.fetch(query("read_originals"), params)
        return self._open(rows)

    async def oldest_open_s(self, *, scan: int = 10_000) -> float:
        """Return the age of the oldest message with an unfinished delivery (s), of the `scan` first due."""
        [(age_s,)] = await self._database.fetch(query("find_oldest_open"), {"scan": scan})
        return float(age_s)

    async def begin_resends(self, runs: Mapping[Overdue, str]) -> None:
        """Note the run of each before it is sent, so that who takes over from us sends that one again."""
        if runs:
            await self._change("begin_resends", [_key(one, r=run) for one, run in runs.items()], list(runs))

    async def count_resends(self, runs: Mapping[Overdue, str], *, check_after_s: float) -> None:
        """Count those that the broker has."""
        if runs:
            rows = [_key(one, r=run) for one, run in runs.items()]
            await self._change("count_resends", rows, list(runs), check_after_s=check_after_s)

    async def postpone(self, waits: Mapping[Overdue, float]) -> None:
        """Look at each again after so many seconds."""
        if waits:
            await self._change(
                "postpone_checks", [_key(one, s=wait) for one, wait in waits.items()], list(waits)
            )

    def _open(self, stored: Iterable[Sequence[Any]]) -> dict[str, Original]:
        """Open what can be; of the rest the log says which key it takes."""
        opened: dict[str, Original] = {}
        sealed: dict[str, list[ContentKeyError]] = {}
        for message_id, value, traceparent in stored:
            try:
                raw = self._database.content.open(message_id, bytes(value))
                opened[message_id] = Original(raw, traceparent)
            except ContentKeyError as error:
                sealed.setdefault(error.key_id, []).append(error)
        for key_id, errors in sealed.items():
            first = errors[0]
            _log.error(
                "content_sealed", key_id=key_id, reason=first.reason, messages=len(errors), error=str(first)
            )
        return opened

    async def _change(
        self, name: str, rows: Sequence[Mapping[str, Any]], found: Sequence[Overdue], **more: object
    ) -> None:
        days = {one.id: one.day for one in found}
        ids = sorted(days)
        keys = {"ids": ids, "days": [days[i] for i in ids], **days_params(days.values())}
        async with self._database.transaction() as tx:
            await tx.fetch(query("lock_messages"), keys)
            await tx.commit(query(name), {**keys, "rows": msgspec.json.encode(rows).decode(), **more})


async def _lease_due(tx: Transaction, horizon_ms: int, limit: int, lease_s: float) -> list[Overdue]:
    due = await tx.fetch(prepared("claim_due", limit=limit), {"horizon": horizon_ms})
    if not due:
        return []
    places, days = zip(*due, strict=True)
    params = {
        "places": arrays.of_texts(places),
        "days": arrays.of_plain(days),
        "day_set": sorted(set(days)),
        "lease_s": lease_s,
    }
    return [Overdue(*row) for row in await tx.fetch(_BY_KEY + query("lease_due"), params)]


def _key(one: Overdue, **more: object) -> dict[str, object]:
    return {"i": one.id, "d": one.day, "u": one.user, "c": one.channel, **more}
