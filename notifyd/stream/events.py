"""Events on their way to the events topic: gathered for a moment, one record per target partition."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Final

from prometheus_client import Counter

from notifyd.delivery.event import Event, encode_alike, encode_events
from notifyd.errors import NotifydError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.topics import Topics

#: Events that share one record at most; about 120 KB of JSON.
_MAX_EVENTS: Final = 500
#: Events handed over with `post_alike` and not yet confirmed, at most (about 25 MB); above it they are
#: dropped and counted. A broadcast to 20,000 clients leaves within 100 ms.
_MAX_POSTED: Final = 100_000


class _Buffer:
    """What waits for one partition: `count` events, some of them encoded already, and the future of
    those who wait for them.

    `is_due` once it has lingered: it goes as soon as the record before it has arrived.
    """

    __slots__ = ("count", "events", "flushed", "is_due", "posted")

    def __init__(self, flushed: asyncio.Future[None]) -> None:
        self.events: list[Event | bytes] = []
        self.count = 0
        self.is_due = False
        self.posted = 0
        self.flushed = flushed


class EventWriter:
    """`EventSink` over Kafka. All events of a message go to one partition, in order as written here."""

    def __init__(
        self, producer: Producer, topics: Topics, settings: Settings, metrics: Metrics, *, role: str
    ) -> None:
        self._producer = producer
        self._topic = topics.events
        self._linger_s = settings.events_linger_s
        self._metrics = metrics
        self._role = role
        self._logger = get_logger()
        self._written: dict[str, Counter] = {}
        #: By stage, events not yet counted in the metrics: that costs as much as the rest of it.
        self._uncounted: dict[str, int] = {}
        self._partitions = 0
        self._buffers: dict[int, _Buffer] = {}
        self._flushes: set[asyncio.Task[None]] = set()
        self._tails: dict[int, asyncio.Task[None]] = {}
        self._posted = 0
        self._is_dropping = False
        self._is_stopped = False

    async def start(self) -> None:
        """Learn the number of partitions; raises as `Producer.partitions`."""
        self._partitions = await self._producer.partitions(self._topic)

    async def stop(self) -> None:
        """Send what is buffered, and wait for it; bounded by the stop of the producer, or by a cancel."""
        self._is_stopped = True
        for partition in tuple(self._buffers):
            self._flush(partition)
        while self._flushes:
            await asyncio.wait(tuple(self._flushes))

    async def write(self, events: Sequence[Event]) -> None:
        """Return once the broker has all of them; waits as long as the broker is away.

        Raises `TransientError` only once the producer is stopped, `PermanentError` where the topic is gone.
        """
        waits = {id(buffer): buffer.flushed for buffer in [self._add(event) for event in events]}
        for flushed in waits.values():
            # Shielded: who is cancelled must not take the flush away from others who share it.
            await asyncio.shield(flushed)

    def put(self, event: Event) -> asyncio.Future[None]:
        """Hand over one event; the future ends as `write` does, and is not to be cancelled: it is shared."""
        return self._add(event).flushed

    async def settle(self) -> None:
        """Return once everything handed over before has an end: acknowledged, or lost for good."""
        waits = [*(buffer.flushed for buffer in self._buffers.values()), *self._flushes]
        if waits:
            await asyncio.wait(waits)

    def post_alike(self, event: Event, users: Sequence[str]) -> None:
        """Hand over the same event of each of `users`, which may be lost; never blocks. Above a bound they
        are dropped and counted.
        """
        room = 0 if self._is_stopped else max(0, _MAX_POSTED - self._posted)
        if len(users) > room:
            self._drop(event, len(users) - room)
        at, end = 0, min(room, len(users))
        while at < end:
            buffer = self._buffer_of(event)
            part = users[at : min(end, at + _MAX_EVENTS - buffer.count)]
            at += len(part)
            self._posted += len(part)
            buffer.posted += len(part)
            buffer.events.append(encode_alike(event, part))
            self._count(event, buffer, len(part))

    def _drop(self, event: Event, count: int) -> None:
        self._metrics.events_dropped.labels("stopped" if self._is_stopped else "buffer_full").inc(count)
        if not self._is_dropping:
            self._is_dropping = True
            self._logger.warning("events_dropped", reason="buffer_full", stage=event.stage)

    def _add(self, event: Event) -> _Buffer:
        buffer = self._buffer_of(event)
        buffer.events.append(event)
        self._count(event, buffer, 1)
        return buffer

    def _count(self, event: Event, buffer: _Buffer, count: int) -> None:
        buffer.count += count
        self._uncounted[event.stage] = self._uncounted.get(event.stage, 0) + count
        if buffer.count >= _MAX_EVENTS:
            self._flush(partition_of(event.id, self._partitions))

    def _buffer_of(self, event: Event) -> _Buffer:
        if not self._partitions:
            raise TransientError("the event writer is not started", reason="producer_stopped")
        partition = partition_of(event.id, self._partitions)
        buffer = self._buffers.get(partition)
        if buffer is None:
            loop = asyncio.get_running_loop()
            buffer = self._buffers[partition] = _Buffer(loop.create_future())
            buffer.flushed.add_done_callback(_consume)
            loop.call_later(self._linger_s, self._flush_this, partition, buffer)
        return buffer

    def _flush_this(self, partition: int, buffer: _Buffer) -> None:
        if self._buffers.get(partition) is not buffer:
            return
        tail = self._tails.get(partition)
        if tail is None or tail.done():
            self._flush(partition)
        else:
            # More may share its record meanwhile. One record a linger would fall behind for good
            # where the broker takes longer than that, and acks with it.
            buffer.is_due = True

    def _on_sent(self, partition: int, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        buffer = self._buffers.get(partition)
        is_next = not task.cancelled() and self._tails.get(partition) is task
        if is_next and buffer is not None and buffer.is_due:
            self._flush(partition)

    def _count_written(self) -> None:
        for stage, count in self._uncounted.items():
            written = self._written.get(stage)
            if written is None:
                written = self._written[stage] = self._metrics.events_written.labels(self._role, stage)
            written.inc(count)
        self._uncounted.clear()

    def _flush(self, partition: int) -> None:
        self._count_written()
        buffer = self._buffers.pop(partition)
        task = asyncio.create_task(self._send(partition, buffer, self._tails.get(partition)))
        self._tails[partition] = task
        self._flushes.add(task)
        task.add_done_callback(partial(self._on_sent, partition))

    async def _send(self, partition: int, buffer: _Buffer, before: asyncio.Task[None] | None) -> None:
        record = OutRecord(self._topic, encode_events(buffer.events), partition=partition)
        try:
            if before is not None and not before.done():
                # One record of a partition at a time keeps the order over a repeated send.
                await asyncio.wait([before])
            await self._producer.send_held([record])
        except NotifydError as error:
            buffer.flushed.set_exception(error)
            if buffer.posted:
                self._metrics.events_dropped.labels(error.reason).inc(buffer.posted)
        except BaseException:
            buffer.flushed.cancel()
            raise
        else:
            buffer.flushed.set_result(None)
            self._is_dropping = False
        finally:
            self._posted -= buffer.posted


def partition_of(message_id: str, partitions: int) -> int:
    """Choose the events partition of a message: CRC-32 of its id, the same in every process."""
    return zlib.crc32(message_id.encode()) % partitions


def _consume(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
