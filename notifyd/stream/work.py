"""How the records of a stream are worked on: each by itself, or partition by partition.

Both acknowledge only after the work has returned. Work that fails in a way nobody foresaw is
handed to `on_surprise`, which turns it into an outcome (a retry, a dead letter); where even
that fails the role ends, with its record unacknowledged for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from notifyd.errors import ConfigError, PermanentError
from notifyd.log import get_logger
from notifyd.stream.batch import Batch, Record
from notifyd.stream.engine import Agent, EngineOptions
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.turns import Feeders, Slots, is_in_line, put_in_line, take_from_line

_log = get_logger()

#: So many surprises are set aside before it matters how much works beside them.
_SURPRISES_ALLOWED: Final = 20
#: Records that the share of surprises is judged by, at least half of it.
_TRUST_MEMORY: Final = 2000
#: Permanent errors that are about the surroundings rather than about the record.
_ENDS_THE_ROLE: Final = frozenset({"topic_missing", "not_authorised"})

#: The rest of a record's work: to be awaited once, or a future that many records may share; the former may
#: end with the latter.
Rest = Coroutine[Any, Any, asyncio.Future[None] | None] | asyncio.Future[None]
RecordWork = Callable[[Batch, Record], Coroutine[Any, Any, Rest | None]]
BatchWork = Callable[[Batch], Awaitable[None]]


class LeftUndone(Exception):
    """Raised by work that leaves its records, unacknowledged, for the partition's next life.

    In a live partition, which has no next life soon, it ends the role.
    """


class OnSurprise(Protocol):
    """Makes an outcome of a failure that nobody foresaw; must be durable when it returns."""

    async def __call__(self, record: Record, error: Exception) -> None:
        """Handle one record."""


def work_on_records(
    options: EngineOptions, work: RecordWork, on_surprise: OnSurprise, *, concurrency: int, aside: int = 0
) -> Agent:
    """Return an agent that runs `work` for each record, `concurrency` at a time, and `aside` that are slow.

    Records of one partition with the same key are worked on one after the other, in one place
    for all of them, so that a busy key cannot take the places of others; those overtake freely.
    Partitions that wait for a place get one in turn.
    Work may return the rest of itself, which need not be done before the next record of the key
    begins: the record is acknowledged after the rest, or as failed where that raises.
    """
    slots = Slots(concurrency, aside=aside)
    records = _Records(work, _Edge(options, on_surprise), slots)

    async def agent(stream: AsyncIterator[Batch]) -> None:
        feeders = Feeders(slots, records.begin, options.fail)
        try:
            async for batch in stream:
                feeders.add(batch)
        finally:
            feeders.end()

    return agent


class _Records:
    """Runs the work of single records, and acks each after it."""

    def __init__(self, work: RecordWork, edge: _Edge, slots: Slots) -> None:
        self._work = work
        self._edge = edge
        self._slots = slots

    def begin(self, batch: Batch, record: Record, place: int) -> None:
        """Begin a record in the place that was taken for it; nobody of its key is at work."""
        flow, key = batch.flow, record.key
        leave = partial(self._slots.free, place)
        if key:
            flow.lines[key] = None
            flow.begin(self._work_on_line(batch, record), record, leave)
        else:
            flow.begin(self._work_on(batch, record), record, leave)

    # These two repeat each other: a coroutine between them and the work is a tenth of a record's cost.

    async def _work_on(self, batch: Batch, record: Record) -> None:
        try:
            rest = await self._work(batch, record)
        except (Exception, asyncio.CancelledError) as error:  # the outer edge: it becomes an outcome
            await self._fail(batch, record, error)
        else:
            if rest is None:
                self._edge.worked(1)
                batch.flow.ack(record.offset)
            elif isinstance(rest, asyncio.Future):
                self._ack_after(rest, batch, record)
            else:
                await self._finish(batch, record, rest)

    async def _work_on_line(self, batch: Batch, record: Record) -> None:
        flow, key = batch.flow, record.key
        lines = flow.lines
        while True:
            try:
                rest = await self._work(batch, record)
            except (Exception, asyncio.CancelledError) as error:  # the outer edge, too
                await self._fail(batch, record, error)
            else:
                if rest is None:
                    self._edge.worked(1)
                    flow.ack(record.offset)
                elif isinstance(rest, asyncio.Future):
                    self._ack_after(rest, batch, record)
                elif flow.is_closed:
                    rest.close()
                else:
                    flow.begin(self._finish(batch, record, rest), record)
            line = lines[key]
            if not line:
                # In the step that found nobody in line: who comes next must begin a line of their own.
                del lines[key]
                return
            if not flow.is_live:
                return
            batch, record = line.popleft()

    def _ack_after(self, shared: asyncio.Future[None], batch: Batch, record: Record) -> None:
        """Ack a record once `shared` is done: one task for all records of its partition that share it."""
        flow = batch.flow
        if flow.is_closed:
            return
        waiting = flow.shared.get(shared)
        if waiting is None:
            waiting = flow.shared[shared] = []
            flow.begin(self._ack_all(flow, shared, waiting), record)
        waiting.append((batch, record))

    async def _ack_all(
        self, flow: PartitionFlow, shared: asyncio.Future[None], waiting: list[tuple[Batch, Record]]
    ) -> None:
        try:
            await asyncio.shield(shared)
        except (Exception, asyncio.CancelledError) as error:  # the outer edge, too
            for batch, record in waiting:
                await self._fail(batch, record, error)
        else:
            self._edge.worked(len(waiting))
            flow.ack_all([record for _, record in waiting])
        finally:
            flow.shared.pop(shared, None)

    async def _finish(
        self, batch: Batch, record: Record, rest: Coroutine[Any, Any, asyncio.Future[None] | None]
    ) -> None:
        """Await the rest of the work, then ack its record."""
        if batch.flow.is_closed:
            # The work did not hear its end. The outcome is the next owner's to write: a retry or a
            # dead letter from here would stand beside theirs.
            rest.close()
            return
        try:
            shared = await rest
        except (Exception, asyncio.CancelledError) as error:  # the outer edge, too
            await self._fail(batch, record, error)
        else:
            if isinstance(shared, asyncio.Future):
                self._ack_after(shared, batch, record)
                return
            self._edge.worked(1)
            batch.flow.ack(record.offset)

    async def _fail(self, batch: Batch, record: Record, error: BaseException) -> None:
        """Make an outcome of a failure, then ack the record; where there is none it stays."""
        surprise = self._edge.surprise(batch, error)
        if surprise is not None and await self._edge.outcome(batch, record, surprise):
            batch.flow.ack(record.offset)


class _Edge:
    """The outer edge of an agent: what fails unforeseen becomes an outcome here, or ends the role.

    A broken deploy must not set a whole topic aside: where most of what came lately was a
    surprise, the role ends with its records unacknowledged.
    """

    def __init__(self, options: EngineOptions, on_surprise: OnSurprise) -> None:
        self._options = options
        self._on_surprise = on_surprise
        self._done = 0
        self._failed = 0

    def worked(self, count: int) -> None:
        """Note records that were worked on."""
        self._done += count
        if self._done > _TRUST_MEMORY:
            self._done //= 2
            self._failed //= 2

    def surprise(self, batch: Batch, error: BaseException) -> Exception | None:
        """What there is to handle of an error; `None` where the records were left on purpose, or are
        another's by now (work that fails as it is cancelled may raise anything).

        Raises it anew where the task is being cancelled. Libraries cancel themselves, too (a
        timeout of theirs that leaks): that must not pass for the end of the epoch, or the record
        would stay unacknowledged for ever, and nobody would say so.
        """
        if isinstance(error, LeftUndone):
            if batch.is_live:
                raise error
            return None
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise error
            return RuntimeError("the work cancelled itself")
        return error if isinstance(error, Exception) and not batch.flow.is_closed else None

    async def outcome(self, batch: Batch, record: Record, error: Exception) -> bool:
        """Turn a surprise into an outcome; false where the role has to end instead."""
        options, topic = self._options, batch.tp.topic
        if isinstance(error, ConfigError) or getattr(error, "reason", "") in _ENDS_THE_ROLE:
            # Not this record's fault: no other record would fare better, and a person has to act.
            options.fail(error)
            return False
        options.metrics.handler_failures.labels(options.role, topic).inc()
        _log.error(
            "handler_failed",
            role=options.role,
            topic=topic,
            partition=batch.tp.partition,
            offset=record.offset,
            exc_info=error,
        )
        self._failed += 1
        if self._failed > max(_SURPRISES_ALLOWED, self._done):
            options.fail(_broken(topic, error))
            return False
        try:
            await self._on_surprise(record, error)
        except Exception as failure:
            options.fail(failure)
            return False
        return True


def _broken(topic: str, error: Exception) -> PermanentError:
    return PermanentError(
        f"most records of {topic} fail unforeseen, the last with {type(error).__name__}: {error}",
        reason="handler_error",
        remedy="nothing more is set aside: mend it or roll back, and the role goes on where it stopped",
    )


def work_on_batches(
    options: EngineOptions,
    work: BatchWork,
    on_surprise: OnSurprise,
    *,
    concurrency: int,
    most: int | None = None,
) -> Agent:
    """Return an agent that runs `work` for each batch, `concurrency` partitions at a time.

    Batches of one partition are worked on in order; those that wait are joined, up to `most` records (what
    one poll may bring), so that a backlog is not worked off in the small steps that it came in. Where one
    fails unforeseen it is worked on record by record, so that what cannot be handled is the only
    thing set aside.
    """
    slots = asyncio.Semaphore(concurrency)
    edge = _Edge(options, on_surprise)
    limit = most or options.settings.kafka_max_poll_records

    async def run(flow: PartitionFlow) -> None:
        """Work on a partition until nothing of it waits."""
        while is_in_line(flow):
            async with slots:
                if not flow.is_live:
                    return
                await work_on(take_from_line(flow, limit))

    async def work_on(batch: Batch) -> None:
        try:
            await work(batch)
        except (Exception, asyncio.CancelledError) as error:
            surprise = edge.surprise(batch, error)
            if surprise is not None:
                await one_by_one(batch, surprise)
        else:
            edge.worked(len(batch.records))
            batch.ack_all()

    async def one_by_one(batch: Batch, error: Exception) -> None:
        if len(batch.records) == 1:
            if await edge.outcome(batch, batch.records[0], error):
                await skip(batch)
            return
        for part in batch.split():
            try:
                await work(part)
            except (Exception, asyncio.CancelledError) as failure:
                surprise = edge.surprise(batch, failure)
                if surprise is None or not await edge.outcome(batch, part.records[0], surprise):
                    return
                await skip(part)
            else:
                edge.worked(1)
                part.ack_all()

    async def skip(part: Batch) -> None:
        """Pass over a record that was set aside: an empty batch moves what `work` keeps of the place."""
        try:
            await work(part.emptied())
        except LeftUndone:
            if part.is_live:
                raise
        else:
            part.ack_all()

    async def agent(stream: AsyncIterator[Batch]) -> None:
        async for batch in stream:
            if batch.is_live and put_in_line(batch):
                batch.flow.begin(run(batch.flow), batch)

    return agent
