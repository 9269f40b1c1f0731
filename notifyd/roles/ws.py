"""Role `ws`: reads every message in a group of its own and pushes to the users connected here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from notifyd import descriptors
from notifyd.errors import ConfigError, InvalidMessage
from notifyd.message.envelope import decode
from notifyd.metrics import Metrics
from notifyd.push.auth import TokenVerifier
from notifyd.push.endpoint import add_push_routes
from notifyd.push.hub import Hub
from notifyd.push.window import ENTRY_BYTES
from notifyd.roles.context import RoleContext
from notifyd.roles.past import StoredMessages
from notifyd.roles.positions import Positions
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.clients import as_notifyd_error
from notifyd.stream.engine import EngineOptions
from notifyd.stream.groups import delete_group, new_group
from notifyd.stream.start import Start, StartPlan

#: Connections are told to go and closed within this share of the drain time.
_DRAIN_SHARE: Final = 0.6
#: The longest that pushing keeps the event loop, in seconds; a broadcast to many takes seconds.
_TURN_S: Final = 0.02


class WsRole(StreamingRole):
    """Pushes live messages, and keeps the last minutes of them for clients that come back.

    It commits nothing: a new process starts a window back, and is ready when it has read all that
    was there at its start.
    """

    name = "ws"

    def __init__(self, context: RoleContext) -> None:
        settings = context.settings
        options = EngineOptions(
            role=self.name,
            group=new_group(group_of(settings, self.name)),
            settings=settings,
            metrics=context.metrics,
            fail=context.fail,
            start=StartPlan(
                back_s=settings.ws_window_s,
                # More of one partition would not fit into the window.
                back_records=settings.ws_window_bytes // ENTRY_BYTES,
                live=frozenset({context.topics.signals}),
                on_starts=self._on_starts,
            ),
            commits=False,
        )
        super().__init__(context, options)
        self._events = context.events(self.name)
        self._signals = context.signals()
        self._past = StoredMessages(context, self._firsts) if settings.database_url is not None else None
        descriptors.raise_descriptor_limit()
        self._hub = Hub(
            settings,
            context.metrics,
            self._events,
            settings.pod_name,
            incarnation=context.incarnation,
            log_end=self._log_end,
            past=self._past,
            signals=self._signals,
            exemplar=context.tracing.exemplar if context.tracing is not None else None,
        )
        self._verifier = TokenVerifier(settings)
        self._unread: dict[int, int] | None = None
        #: From where on messages were pushed: what lay before was there when this process came.
        self._pushed_from: dict[int, int] = {}
        self._positions = Positions(context, self._events, self._hub, self._pushed_from)
        self._continued: dict[int, int] = {}
        add_push_routes(context.public, self._hub, self._verifier, settings)
        self.app.add_agent([context.topics.messages], self._read, name="ws")
        self.app.add_agent([context.topics.signals], self._read_signals, name="ws signals")

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs keys to verify tokens with, and a descriptor for each connection."""
        TokenVerifier(settings)
        most = descriptors.places(is_hard=True)
        if settings.ws_max_connections > most:
            raise ConfigError(
                f"NOTIFYD_WS_MAX_CONNECTIONS is {settings.ws_max_connections}, and the descriptors of "
                f"this process leave room for {most}",
                reason="too_few_descriptors",
                remedy="raise the limit (`ulimit -Hn`, the container's `nofile`), or lower the setting",
            )

    async def start(self) -> None:
        """Read; the public server lets clients in once the group is joined and the window is filled."""
        await self._events.start()
        await super().start()
        await self._positions.start()

    async def stop(self) -> None:
        """Send the clients elsewhere, then stop reading: what came meanwhile still reaches them."""
        settings = self.context.settings
        # An idle one, of acks or tickets, would bring the client of an event stream back to this process.
        await self.context.send_away(0)
        await self._hub.drain(settings.drain_s * _DRAIN_SHARE)
        await super().stop()
        await self._positions.stop(settings.stop_step_s / 2)
        # Nobody reads in it again.
        await delete_group(settings, self.app.options.group, limit_s=settings.stop_step_s / 2)
        await self._verifier.stop()
        if self._past is not None:
            await self._past.stop()
        await self.context.flush(self._events, self._signals)

    @property
    def waits_for(self) -> list[str]:
        """Ready takes the window, beside the group."""
        return super().waits_for + ([] if self._is_filled() else ["replay window"])

    # Reading

    def _on_starts(self, starts: Mapping[TP, Start]) -> None:
        messages = {tp: start for tp, start in starts.items() if tp.topic == self.context.topics.messages}
        if self._unread is None and messages:
            self._unread = {tp.partition: start.end for tp, start in messages.items()}
            self._pushed_from.update(self._unread)
        for tp, start in messages.items():
            position = self._hub.position(tp.partition)
            if position is None or start.end < position:
                self._hub.begin(tp.partition, start.offset)
                if position is not None:
                    self._pushed_from[tp.partition] = start.offset
            elif start.is_continued:
                self._continued[tp.partition] = start.offset

    def _join(self, partition: int, start: int) -> None:
        """Let a batch follow what was read before; where records between are missing, say so."""
        if self._continued.get(partition) == start:
            # What lay between the last batch and this one were no records.
            del self._continued[partition]
            self._hub.advance(partition, start)
        elif start > (self._hub.position(partition) or 0):
            if self._hub.position(partition) is not None:
                self._pushed_from[partition] = start
            self._hub.begin(partition, start)

    def _is_filled(self) -> bool:
        """Whether everything was read that was there at the start."""
        if self._unread:
            flows = self.app.engine_consumer.flows
            for partition, end in list(self._unread.items()):
                flow = flows.get(TP(self.context.topics.messages, partition))
                # Its position passes transaction markers too, which no batch ends with.
                if flow is not None and (flow.position or 0) >= end and not flow.in_flight:
                    del self._unread[partition]
        return self._unread is not None and not self._unread

    async def _read(self, stream: AsyncIterator[Batch]) -> None:
        clock = asyncio.get_running_loop().time
        async for batch in stream:
            if not batch.is_live:
                continue  # it comes again, in the next life of its partition
            partition, began = batch.tp.partition, clock()
            self._join(partition, batch.start)
            self.context.metrics.ingest_bytes.inc(sum(len(record.value or b"") for record in batch.records))
            for record in batch.records:
                # What was read in the former life of its partition and not acked comes again.
                if record.offset >= (self._hub.position(partition) or 0):
                    self._push(record)
                if clock() - began > _TURN_S:
                    await asyncio.sleep(0)  # heartbeats, of clients and of Kafka, have their turn
                    began = clock()
            self._hub.advance(partition, batch.end)
            batch.ack_all()

    async def _read_signals(self, stream: AsyncIterator[Batch]) -> None:
        clock = asyncio.get_running_loop().time
        async for batch in stream:
            began = clock()
            for record in batch.records:
                self._hub.take_signal(record.key, record.value)
                if clock() - began > _TURN_S:
                    await asyncio.sleep(0)
                    began = clock()
            batch.ack_all()

    def _push(self, record: Record) -> None:
        tracing = self.context.tracing
        began_ns = time.time_ns() if tracing is not None else 0
        try:
            message = decode(record.value, timestamp_ms=record.timestamp, limits=self.context.limits)
            connections = self._hub.publish(message, record.partition, record.offset)
        except InvalidMessage as error:
            self.context.metrics.invalid.labels(self.name, error.reason).inc()
            return
        if tracing is not None and connections:
            group = self.app.options.group
            tracing.processed(record, message.id, group, began_ns, **{"notifyd.connections": connections})

    async def _firsts(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Read from the broker what it still has."""
        tps = [TopicPartition(self.context.topics.messages, partition) for partition in partitions]
        try:
            found = await self.app.engine_consumer.client.beginning_offsets(tps)
        except (KafkaError, OSError) as error:
            raise as_notifyd_error(error, "asking for the first offsets") from error
        return {tp.partition: offset for tp, offset in found.items()}

    def _log_end(self, partition: int) -> int:
        consumer, tp = self.app.engine_consumer, TP(self.context.topics.messages, partition)
        return consumer.highwater(tp) if tp in consumer.flows else 0
