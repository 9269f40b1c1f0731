"""Persist: batches of messages and events become rows, and the mark moves with them, or neither does.

The mark of an input partition is the consumer position below which every row is committed. It is
locked first, moves only from a batch's start to its end, and is committed with the rows, so that
a replay after any crash changes nothing and a batch out of turn is turned away.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol, TypeVar

from notifyd.delivery.pod import PodPosition
from notifyd.metrics import Metrics
from notifyd.store.batch import (
    CHECK_AFTER_S,
    EventRecord,
    MessageRow,
    OnRefused,
    Place,
    Refused,
    Tally,
    Written,
)
from notifyd.store.errors import MissingPartition, RowError
from notifyd.store.events import EventBatch, EventRow, read_events
from notifyd.store.messages import MessageBatch
from notifyd.store.pool import Database, Transaction
from notifyd.store.positions import read_position, write_positions
from notifyd.store.sql import query

__all__ = ["MessageRow", "PersistStore", "Refused", "Written"]

#: Days whose partitions are known to be there; more than the window of `ensure_day` holds.
_MAX_KNOWN_DAYS: Final = 1000
#: It becomes a Kafka header.
_MAX_ERROR_CHARS: Final = 500

_Row = TypeVar("_Row", MessageRow, EventRow)


class _Batch(Protocol):
    """Rows that are laid out for the database."""

    async def begin(self, tx: Transaction, start: int) -> int | None:
        """Lock the mark and begin to write if it is at `start`; return it. None: this was not done."""

    async def write(self, tx: Transaction) -> Tally:
        """Write them, or what is left of them, and tell what was done."""


_Layout = Callable[[Place, Sequence[_Row]], Awaitable[_Batch]]


class PersistStore:
    """Writes for one incarnation of the topics, as `pod`; safe for several batches at a time."""

    def __init__(
        self,
        database: Database,
        incarnation: str,
        pod: str,
        metrics: Metrics,
        check_after_s: float = CHECK_AFTER_S,
    ) -> None:
        self._database = database
        self._incarnation = incarnation
        self._pod = pod
        self._metrics = metrics
        self._check_after_s = check_after_s
        self._incarnation_id: int | None = None
        self._known_days: set[str] = set()

    async def start_offsets(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Read the marks of these partitions: where to start. No entry: nothing of it was ever written."""
        params = {
            "incarnation": await self._incarnation_no(),
            "topic": topic,
            "partitions": list(partitions),
        }
        return dict(await self._database.fetch(query("read_marks"), params))

    async def write_messages(  # noqa: PLR0917
        self,
        topic: str,
        partition: int,
        start: int,
        end: int,
        rows: Sequence[MessageRow],
        on_refused: OnRefused,
    ) -> Written:
        """Write the messages read from `start` up to the consumer's position `end`.

        One transaction: messages, deliveries, inbox, unread counters, and the mark. `on_refused` is
        awaited before it, with rows that can never be written. Raises `TransientError` where
        nothing was written, or nobody can tell: call again with the same batch.
        """
        place = await self._place(topic, partition)
        layout = partial(MessageBatch.laid_out, content=self._database.content)
        return await self._write(
            place, start, end, rows=rows, unread=[], layout=layout, on_refused=on_refused
        )

    async def write_events(  # noqa: PLR0917
        self,
        topic: str,
        partition: int,
        start: int,
        end: int,
        values: Sequence[tuple[int, bytes | None]],
        on_refused: OnRefused,
    ) -> Written:
        """Write the events in `values`, (offset, record value) each; as `write_messages` otherwise.

        A record with one faulty event is refused as a whole, its sound events are written.
        """
        place = await self._place(topic, partition)
        rows: list[EventRow] = []
        refused: list[Refused] = []
        positions: list[PodPosition] = []
        for offset, value in values:
            record = EventRecord(value, offset)
            position = read_position(record)
            if isinstance(position, PodPosition):
                positions.append(position)
                continue
            read = read_events(record) if position is None else position
            if isinstance(read, Refused):
                refused.append(read)
            else:
                rows += read
        current = [position for position in positions if position.incarnation == self._incarnation]
        await write_positions(self._database, place.incarnation, current)
        return await self._write(
            place, start, end, rows=rows, unread=refused, layout=EventBatch.laid_out, on_refused=on_refused
        )

    async def _write(
        self,
        place: Place,
        start: int,
        end: int,
        *,
        rows: Sequence[_Row],
        unread: Sequence[Refused],
        layout: _Layout[_Row],
        on_refused: OnRefused,
    ) -> Written:
        """Try, set aside what is at fault, and try again without it, until the rest is committed.

        No lock is held while refused records are brought to safety, however long that takes.
        """
        if start > end:
            raise ValueError(f"a batch from {start} to {end}")
        started = time.monotonic()
        told: set[int] = set()
        if unread:
            marks = await self.start_offsets(place.topic, [place.partition])
            if marks.get(place.partition, start) >= end:
                return Written("replayed", marks[place.partition])
            await _tell(unread, told, on_refused)
        left = list(rows)
        while True:
            result = await self._attempt(place, start, end, left, layout)
            # Who waits for the connection is first: the server has nothing to do until then.
            await asyncio.sleep(0)
            if not isinstance(result, list):
                written, tally = result
                if tally is not None:
                    self._count(tally, time.monotonic() - started)
                return replace(written, refused=len(told))
            await _tell([refused for _, refused in result], told, on_refused)
            set_aside = {id(row) for row, _ in result}
            left = [row for row in left if id(row) not in set_aside]

    async def _attempt(
        self, place: Place, start: int, end: int, rows: Sequence[_Row], layout: _Layout[_Row]
    ) -> tuple[Written, Tally | None] | list[tuple[_Row, Refused]]:
        """Write everything, or nothing and say which rows are at fault."""
        homeless = await self._without_partition(rows)
        if homeless:
            return homeless
        try:
            batch = await layout(place, rows)
            async with self._database.transaction() as tx:
                mark = await batch.begin(tx, start)
                if mark is None:
                    mark = await self._lock_mark(tx, place, start)
                if mark < start:
                    return Written("behind", mark), None
                if mark >= end:
                    return Written("replayed", mark), None
                if mark > start:
                    # A batch that begins below the mark and ends above it is new from the mark on.
                    batch = await layout(place, [row for row in rows if row.offset >= mark])
                tally = await batch.write(tx)
                if not tally.refused:
                    last = f"{tally.last};" if tally.last else ""
                    params = place.params(end=end, **tally.last_params)
                    await tx.commit(last + query("move_mark"), params)
                    return Written("written", end, tally.messages, tally.doubles, tally.events), tally
                await tx.rollback()
            of_offset = {row.offset: row for row in rows}
            return [(of_offset[one.offset], one) for one in tally.refused]
        except RowError as error:
            return await self._find_poison(place, rows, layout, error)
        except MissingPartition:
            # Retention took it away meanwhile; the next call makes it anew.
            self._known_days.clear()
            raise

    async def _find_poison(
        self, place: Place, rows: Sequence[_Row], layout: _Layout[_Row], error: RowError
    ) -> list[tuple[_Row, Refused]]:
        """Halve a failing batch, without keeping anything, until the rows at fault stand alone."""
        if len(rows) == 1:
            [row] = rows
            record = row if isinstance(row, MessageRow) else row.record
            return [(row, Refused(record, error.reason, error.message[:_MAX_ERROR_CHARS]))]
        found: list[tuple[_Row, Refused]] = []
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            try:
                batch = await layout(place, half)
                async with self._database.transaction() as tx:
                    tally = await batch.write(tx)
                    if tally.last:
                        await tx.fetch(tally.last, tally.last_params)
                    await tx.rollback()
            except RowError as narrower:
                found += await self._find_poison(place, half, layout, narrower)
        if not found:
            raise error
        return found

    async def _without_partition(self, rows: Sequence[_Row]) -> list[tuple[_Row, Refused]]:
        """Make the partitions of these rows' days, and return the rows whose day may have none."""
        by_day: dict[str, list[_Row]] = {}
        for row in rows:
            by_day.setdefault(row.day, []).append(row)
        new = sorted(by_day.keys() - self._known_days)
        if not new:
            return []
        if len(self._known_days) > _MAX_KNOWN_DAYS:
            self._known_days.clear()
        homeless: list[tuple[_Row, Refused]] = []
        # One transaction each, so that two writers cannot wait for each other's days.
        for day in new:
            [(is_there,)] = await self._database.fetch(query("ensure_day"), {"day": day})
            if is_there:
                self._known_days.add(day)
                continue
            for row in by_day[day]:
                record = row if isinstance(row, MessageRow) else row.record
                homeless.append((row, Refused(record, "date_out_of_range", f"its day {day} is too far away")))
        return homeless

    async def _lock_mark(self, tx: Transaction, place: Place, start: int) -> int:
        found = await tx.fetch(query("lock_mark"), place.params())
        if not found:
            await tx.fetch(query("begin_mark"), place.params(start=start))
            found = await tx.fetch(query("lock_mark"), place.params())
        [(mark,)] = found
        return int(mark)

    async def _place(self, topic: str, partition: int) -> Place:
        return Place(await self._incarnation_no(), topic, partition, self._pod, self._check_after_s)

    async def _incarnation_no(self) -> int:
        if self._incarnation_id is None:
            name = {"name": self._incarnation}
            await self._database.fetch(query("ensure_incarnation"), name)
            [(number,)] = await self._database.fetch(query("read_incarnation"), name)
            self._incarnation_id = int(number)
        return self._incarnation_id

    def _count(self, tally: Tally, took_s: float) -> None:
        self._metrics.persist_seconds.observe(took_s)
        for table, rows in (
            ("message", tally.messages),
            ("delivery", tally.deliveries),
            ("inbox", tally.inbox),
            ("message_event", tally.events),
        ):
            if rows:
                self._metrics.persisted.labels(table).inc(rows)
        for channel in {channel for channel, _ in tally.ended}:
            ages = Counter(age_ms / 1000 for name, age_ms in tally.ended if name == channel)
            self._metrics.accepted_to_final.labels(channel).observe_counts(ages)
        if tally.dropped:
            self._metrics.events_dropped.labels("no_delivery").inc(tally.dropped)


async def _tell(refused: Sequence[Refused], told: set[int], on_refused: OnRefused) -> None:
    """Hand over each record once, however many of its events are at fault."""
    news = {one.offset: one for one in refused if one.offset not in told}
    if news:
        await on_refused(list(news.values()))
        told.update(news)
