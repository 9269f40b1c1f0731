"""Role `persist`: messages and events become rows, in batches, with the place to go on from.

It starts each partition at its mark in the database rather than at the group's offset: rows
and place are one transaction. It alone dead-letters records that are invalid or in conflict,
before the mark passes them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from faust.types import TP

from notifyd.errors import InvalidMessage, TransientError
from notifyd.log import get_logger
from notifyd.message.envelope import decode
from notifyd.metrics import Metrics
from notifyd.roles.context import RoleContext
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.settings import Settings
from notifyd.store.migrate import require_schema
from notifyd.store.persist import MessageRow, PersistStore, Refused, Written
from notifyd.store.pool import Database
from notifyd.stream.batch import Batch, Record
from notifyd.stream.clients import backoff_s
from notifyd.stream.engine import EngineOptions
from notifyd.stream.start import StartPlan
from notifyd.stream.work import LeftUndone, work_on_batches

_log = get_logger()
_T = TypeVar("_T")


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
        for topic, work in ((topics.messages, self._write_messages), (topics.events, self._write_events)):
            agent = work_on_batches(
                options, work, self._on_surprise, concurrency=max(1, settings.database_pool_size // 2)
            )
            self.app.add_agent([topic], agent, name=topic)

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs a database that can be read from its URL."""
        Database(settings, metrics)

    async def start(self) -> None:
        """Wait for the database, then read."""
        while True:
            await self._database.start(wait=True)
            try:
                await require_schema(self._database)
                break
            except TransientError:  # gone again; the next start says so and waits
                await asyncio.sleep(backoff_s(0))
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
        for record in batch.records:
            try:
                message = decode(record.value, timestamp_ms=record.timestamp, limits=self.context.limits)
                message.content  # noqa: B018  a fault in it shows here
            except InvalidMessage as error:
                await self._set_aside(record, error.reason, error.message)
            else:
                rows.append(MessageRow(message, record.partition, record.offset))
                records[record.offset] = record

        async def on_refused(refused: Sequence[Refused]) -> None:
            for one in refused:
                await self._set_aside(records[one.row.offset], one.reason, one.error)

        written = await self._held(
            batch,
            lambda: self._store.write_messages(
                batch.tp.topic, batch.tp.partition, batch.start, batch.end, rows, on_refused
            ),
        )
        self._judge(batch, written)

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

    async def _held(self, batch: Batch, write: Callable[[], Awaitable[_T]]) -> _T:
        """Write, however long the database is away; the window pauses the partition meanwhile."""
        attempt = 0
        while True:
            try:
                written = await write()
            except TransientError as error:
                if not batch.is_live:
                    raise LeftUndone from error
                self.context.metrics.database_waits.labels(error.reason).inc()
                if attempt == 0:
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
                    _log.info("database_answers_again", topic=batch.tp.topic, partition=batch.tp.partition)
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
