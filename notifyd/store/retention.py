"""Retention: whole days are detached and dropped, class by class, beside a system that goes on.

A partition of inboxes lets go of its unread rows first, in small transactions that move the counters with
them. Then it is detached (CONCURRENTLY: nobody is kept waiting) and dropped. Each step may be cut off
and is taken up by the next run, for the catalogue says how far it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from notifyd.errors import TransientError
from notifyd.settings import Settings
from notifyd.store.alone import alone
from notifyd.store.days import ONE_DAY
from notifyd.store.events import days_params
from notifyd.store.pool import Database
from notifyd.store.sql import query

#: Partitions are made for today and so many days after it, as far as `ensure_day` goes.
_DAYS_AHEAD: Final = 2
_BATCH_ROWS: Final = 1000
#: Attempts for a table that others hold; with a lock timeout of 10 s about a minute.
_ATTEMPTS: Final = 5
#: How long positions of processes that are gone are kept, for whoever looks into what happened.
_POSITIONS_KEPT: Final = ONE_DAY

_ROWS: Final = {
    "message_id": "day < %(before)s::date AND day > '-infinity'",
    "early_event": "recorded_at < %(before)s::timestamptz",
    "pod_position": "expires_at < %(before)s::timestamptz",
    "dlq_audit": "at < %(before)s::timestamptz",
    "newest_of_key": "day < %(before)s::date",
}


@dataclass(frozen=True, slots=True)
class Partition:
    """The table of one day. `state`: `attached`, `detaching` (cut off half way) or `detached`."""

    table: str
    name: str
    day: dt.date
    bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do: partitions to `drop`, in order; days to `make` partitions for; days to `attach`
    again, for they are kept for longer than when their detaching began; rows to delete, by table.
    """

    drop: list[Partition]
    make: list[dt.date]
    attach: list[dt.date]
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did. `held` are partitions that others did not let go of: the next run tries again."""

    dropped: list[Partition]
    held: list[Partition]
    rows: dict[str, int]


class Retention:
    """Keeps what the settings say from `today` (UTC) back; nothing is kept for less than they say."""

    def __init__(self, database: Database, settings: Settings, now: dt.datetime) -> None:
        self._database = database
        today = now.date()
        inbox, trace = settings.retention_inbox_days, settings.retention_trace_days
        message = settings.retention_message_days
        self.first_days: dict[str, dt.date] = {
            "inbox": today - ONE_DAY * inbox,
            "delivery": today - ONE_DAY * trace,
            "message_event": today - ONE_DAY * trace,
            "message": today - ONE_DAY * message,
        }
        self._today = today
        self._past: dict[str, dt.date | dt.datetime] = {
            "message_id": self.first_days["message"],
            "early_event": now - dt.timedelta(seconds=settings.topic_retention_s),
            "pod_position": now - _POSITIONS_KEPT,
            "dlq_audit": now - ONE_DAY * settings.retention_audit_days,
            "newest_of_key": self.first_days["inbox"],
        }

    async def plan(self) -> Plan:
        """Look what is past; changes nothing."""
        tables = await self._partitions()
        attached = {one.day for one in tables if one.table == "message_event" and one.state == "attached"}
        ahead = [self._today + ONE_DAY * days for days in range(_DAYS_AHEAD + 1)]
        [counts] = await self._database.fetch(
            query("count_past_rows"), {table: str(before) for table, before in self._past.items()}
        )
        return Plan(
            drop=[one for one in tables if one.day < self.first_days[one.table]],
            make=[day for day in ahead if day not in attached],
            attach=sorted(
                {
                    one.day
                    for one in tables
                    if one.state != "attached" and one.day >= self.first_days[one.table]
                }
            ),
            rows=dict(zip(_ROWS, counts, strict=True)),
        )

    async def run(self, on_progress: Callable[[str], None] = lambda what: None) -> Done:
        """Carry the plan out. Raises `TransientError` while another run is at work or the database away."""
        async with self._alone():
            for partition in await self._partitions():
                if partition.state == "detaching":  # PostgreSQL lets no other of its table be detached before
                    await self._finish_detaching(partition)
            plan = await self.plan()
            for day in {*plan.make, *plan.attach}:
                await self._database.fetch(query("ensure_day"), {"day": day.isoformat()})
            dropped: list[Partition] = []
            held: list[Partition] = []
            for partition in plan.drop:
                on_progress(partition.name)
                is_next = partition.table not in {one.table for one in held}
                done = is_next and await self._drop(partition)
                (dropped if done else held).append(partition)
            rows = {table: await self._delete_rows(table) for table in _ROWS}
            await self._forget_days()
            return Done(dropped, held, rows)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with alone(self._database, "notifyd.retention") as tx:
            if tx is None:
                raise TransientError(
                    "another run of retention is at work", reason="retention_running", remedy="wait for it"
                )
            yield

    async def _partitions(self) -> list[Partition]:
        return [
            Partition(table, name, dt.date.fromisoformat(day), size, state)
            for table, name, day, size, state in await self._database.fetch(query("read_partitions"))
        ]

    async def _drop(self, partition: Partition) -> bool:
        for attempt in range(_ATTEMPTS):
            try:
                if partition.table == "inbox" and partition.state == "attached":
                    await self._retire(partition.day)
                if await self._detach(partition):
                    if partition.table == "inbox":
                        await self._retire_detached(partition)
                    await self._database.fetch(f"DROP TABLE {partition.name}")
            except TransientError as error:
                if error.reason == "database_closed" or attempt == _ATTEMPTS - 1:
                    return False
                await asyncio.sleep(random.uniform(0.1, 0.5) * 2**attempt)
            else:
                return True
        return False

    async def _detach(self, partition: Partition) -> bool:
        """Detach it, however far that had come; False where it is gone already."""
        state = {one.name: one.state for one in await self._partitions()}.get(partition.name)
        if state == "detaching":
            await self._finish_detaching(partition)
        elif state == "attached":
            # Outside of a transaction, as PostgreSQL demands; it waits for whoever reads the table now.
            await self._database.fetch(
                f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name} CONCURRENTLY"
            )
        return state is not None

    async def _finish_detaching(self, partition: Partition) -> None:
        await self._database.fetch(
            f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name} FINALIZE"
        )

    async def _retire(self, day: dt.date) -> None:
        """Let go of the unread rows of a day, and of their share of the counters."""
        user, message_id = "", "00000000-0000-0000-0000-000000000000"
        while True:
            place = {"day": day.isoformat(), "user": user, "id": message_id, "limit": _BATCH_ROWS}
            rows = await self._database.fetch(query("read_unread_of_day"), place)
            if not rows:
                return
            user, message_id = rows[-1]
            ids = sorted({one for _, one in rows})
            days = [day.isoformat()] * len(ids)
            params = {"users": [one for one, _ in rows], "messages": [one for _, one in rows], "day": days[0]}
            async with self._database.transaction() as tx:
                await tx.fetch(query("lock_messages"), {"ids": ids, "days": days, **days_params(days)})
                await tx.fetch(query("retire_inbox"), params)

    async def _retire_detached(self, partition: Partition) -> None:
        """Do the same for what was written between that and the detaching; nobody sees the table any more."""
        statement = query("retire_detached_inbox").replace("{partition}", partition.name)
        await self._database.fetch(statement)

    async def _forget_days(self) -> None:
        """Let users' rows name no day whose partition is gone, some rows at a time."""
        params = {"first_day": self.first_days["inbox"].isoformat(), "limit": _BATCH_ROWS}
        while await self._database.fetch(query("forget_days"), params):
            pass

    async def _delete_rows(self, table: str) -> int:
        """Delete what is past of a table without partitions, some rows at a time."""
        params = {"before": str(self._past[table]), "limit": _BATCH_ROWS}
        statement = (
            f"WITH past AS (SELECT ctid FROM {table} WHERE {_ROWS[table]} LIMIT %(limit)s"
            f" FOR UPDATE SKIP LOCKED)"
            f" DELETE FROM {table} USING past WHERE {table}.ctid = past.ctid RETURNING 1"
        )
        total = 0
        while True:
            count = len(await self._database.fetch(statement, params))
            total += count
            if count < _BATCH_ROWS:
                return total
