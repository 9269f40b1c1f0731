"""Role `persist`: messages and events become rows, in batches, with the place to go on from.

It starts each partition at its mark in the database rather than at the group's offset: rows
and place are one transaction. It alone dead-letters records that are invalid or in conflict,
before the mark passes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from faust.types import TP

from notifyd.errors import InvalidMessage, TransientError
from notifyd.log import get_logger
from notifyd.message.envelope import decode
from notifyd.metrics import Metrics
from notifyd.roles.context import RoleContext
from notifyd.roles.database import start_database
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.settings import Settings
from notifyd.store.persist import MessageRow, PersistStore, Refused, Written
from notifyd.store.pool import Database
from notifyd.stream.batch import Batch, Record
from notifyd.stream.clients import backoff_s
from notifyd.stream.engine import EngineOptions
from notifyd.stream.start import StartPlan
from notifyd.stream.work import LeftUndone, work_on_batches
from notifyd.tracing import traceparent_of

_log = get_logger()

_timestamp_of = attrgetter("timestamp")

#: Between two lines that say we are still waiting for the same reason.
_REMINDER_S: Final = 30.0

#: Then others have their turn: a batch that is at its statements, and with it the server, must not wait until
#: all of the next one is decoded. An answer takes five or six turns to get through the client.
_DECODED_AT_ONCE: Final = 8


class PersistRole(StreamingRole):
    """Reads messages and events; writes rows and dead letters."""

    name = "persist"

    def __init__(self, context: RoleContext) -> None:
        settings, topics = context.settings, context.topics
        options = EngineOptions(
            role=self.name,
            group=group_of(settings, self.name),
            settings=settings,
            metrics=context.metrics,
            fail=context.fail,
            start=StartPlan(places=self._places),
        )
        super().__init__(context, options)
        self._database = Database(settings, context.metrics)
        self._store = PersistStore(
            self._database,
            context.incarnation,
            settings.pod_name,
            context.metrics,
            settings.sweep_check_after_s,
        )
        self._dead_letters = context.dead_letters()
        self._is_waiting = False
        # One more than connections: what comes next is decoded and laid out while those are at work.
        concurrency = settings.database_pool_size + 1
        # Half of the window, so that a partition is read on meanwhile. What a transaction costs beside its
        # rows (plans, round trips, the disk at the COMMIT) is the same for a few of them as for many.
        most = max(settings.kafka_max_poll_records, settings.kafka_window_records // 2)
        for topic, work in ((topics.messages, self._write_messages), (topics.events, self._write_events)):
            agent = work_on_batches(options, work, self._on_surprise, concurrency=concurrency, most=most)
            self.app.add_agent([topic], agent, name=topic)

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs a database that can be read from its URL."""
        Database(settings, metrics)

    async def start(self) -> None:
        """Wait for the database, then read."""
        await start_database(self._database)
        await super().start()

    async def stop(self) -> None:
        """Drain, then close the pool."""
        await super().stop()
        await self._database.stop()

    @property
    def waits_for(self) -> list[str]:
        """Ready takes a database that answers, beside the group."""
        return super().waits_for + (["database"] if self._is_waiting else [])

    async def _places(self, tps: Sequence[TP]) -> Mapping[TP, int]:
        by_topic: dict[str, list[int]] = defaultdict(list)
        for tp in tps:
            by_topic[tp.topic].append(tp.partition)
        places: dict[TP, int] = {}
        for topic, partitions in by_topic.items():
            marks = await self._store.start_offsets(topic, partitions)
            places.update({TP(topic, partition): offset for partition, offset in marks.items()})
        return places

    # Messages

    async def _write_messages(self, batch: Batch) -> None:
        rows: list[MessageRow] = []
        records: dict[int, Record] = {}
        for number, record in enumerate(batch.records):
            if number % _DECODED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                message = decode(record.value, timestamp_ms=record.timestamp, limits=self.context.limits)
                message.content  # noqa: B018  a fault in it shows here
            except InvalidMessage as error:
                await self._set_aside(record, error.reason, error.message)
            else:
                trace = traceparent_of(record.headers)
                rows.append(MessageRow(message, record.partition, record.offset, trace))
                records[record.offset] = record

        async def on_refused(refused: Sequence[Refused]) -> None:
            for one in refused:
                await self._set_aside(records[one.row.offset], one.reason, one.error)

        with self._span(rows, records):
            written = await self._held(
                batch,
                lambda: self._store.write_messages(
                    batch.tp.topic, batch.tp.partition, batch.start, batch.end, rows, on_refused
                ),
            )
        self._judge(batch, written)
        now_s = time.time()
        accepted = Counter(map(_timestamp_of, records.values()))
        self.context.metrics.ingest_to_stored.observe_counts(
            {max(0.0, now_s - at_ms / 1000): count for at_ms, count in accepted.items()}
        )

    def _span(
        self, rows: Sequence[MessageRow], records: Mapping[int, Record]
    ) -> contextlib.AbstractContextManager[None]:
        """One span for all of them, linked to the trace of each."""
        tracing = self.context.tracing
        if tracing is None or not rows:
            return contextlib.nullcontext()
        messages = [(row.message.id, records[row.offset]) for row in rows]
        return tracing.process_batch(self.context.topics.messages, self.app.options.group, messages)

    async def _set_aside(self, record: Record, reason: str, error: str) -> None:
        self.context.metrics.invalid.labels(self.name, reason).inc()
        await self._dead_letters.write(record, reason=reason, error=error)

    # Events

    async def _write_events(self, batch: Batch) -> None:
        values = [(record.offset, record.value) for record in batch.records]
        records = {record.offset: record for record in batch.records}

        async def on_refused(refused: Sequence[Refused]) -> None:
            for one in refused:
                await self._set_aside(records[one.offset], one.reason, one.error)

        written = await self._held(
            batch,
            lambda: self._store.write_events(
                batch.tp.topic, batch.tp.partition, batch.start, batch.end, values, on_refused
            ),
        )
        self._judge(batch, written)

    # Both

    async def _held(self, batch: Batch, write: Callable[[], Awaitable[Written]]) -> Written:
        """Write, however long the database is away; the window pauses the partition meanwhile."""
        attempt, began, told, next_line_at = 0, time.monotonic(), "", 0.0
        while True:
            try:
                written = await write()
            except TransientError as error:
                if not batch.is_live:
                    raise LeftUndone from error
                self.context.metrics.database_waits.labels(error.reason).inc()
                if error.reason != told or time.monotonic() >= next_line_at:
                    told, next_line_at = error.reason, time.monotonic() + _REMINDER_S
                    _log.warning(
                        "waiting_for_database",
                        topic=batch.tp.topic,
                        partition=batch.tp.partition,
                        reason=error.reason,
                        error=error.message,
                    )
                self._is_waiting = True
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1
            else:
                if attempt:
                    _log.info(
                        "database_answers_again",
                        topic=batch.tp.topic,
                        partition=batch.tp.partition,
                        waited_s=round(time.monotonic() - began, 1),
                        # "replayed": the server had committed it before the connection was cut.
                        outcome=written.status,
                    )
                self._is_waiting = False
                return written

    def _judge(self, batch: Batch, written: Written) -> None:
        """Where the mark is not where this batch begins, another has written or a failover moved it."""
        if written.is_gap:
            _log.warning("mark_moved", topic=batch.tp.topic, partition=batch.tp.partition, start=batch.start)
            self.app.reopen(batch)
            raise LeftUndone

    async def _on_surprise(self, record: Record, error: Exception) -> None:
        """Dead-letter a record that our own code could not handle; it can be replayed once that is mended."""
        await self._dead_letters.write(
            record, reason="handler_error", error=f"{type(error).__name__}: {error}"
        )
