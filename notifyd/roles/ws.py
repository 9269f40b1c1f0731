"""Role `ws`: reads every message in a group of its own and pushes to the users connected here."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from notifyd.errors import InvalidMessage
from notifyd.message.envelope import decode
from notifyd.metrics import Metrics
from notifyd.push.auth import TokenVerifier
from notifyd.push.endpoint import add_push_routes
from notifyd.push.hub import Hub
from notifyd.roles.context import RoleContext
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.engine import EngineOptions
from notifyd.stream.start import StartPlan

#: Connections are told to go and closed within this share of the drain time.
_DRAIN_SHARE: Final = 0.6
#: The longest that pushing keeps the event loop, in seconds; a broadcast to many takes seconds.
_TURN_S: Final = 0.02


class WsRole(StreamingRole):
    """Pushes live messages. It commits nothing: a pod that starts anew starts at what is live."""

    name = "ws"

    def __init__(self, context: RoleContext) -> None:
        settings = context.settings
        options = EngineOptions(
            role=self.name,
            group=f"{group_of(settings, self.name)}-{uuid.uuid4().hex[:12]}",
            settings=settings,
            metrics=context.metrics,
            fail=context.fail,
            start=StartPlan(is_live_only=True),
            commits=False,
        )
        super().__init__(context, options)
        self._events = context.events(self.name)
        self._hub = Hub(
            settings, context.metrics, self._events, settings.pod_name, incarnation=context.incarnation
        )
        self._verifier = TokenVerifier(settings)
        add_push_routes(context.public, self._hub, self._verifier, settings)
        self.app.add_agent([context.topics.messages], self._read, name="ws")

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs keys to verify tokens with."""
        TokenVerifier(settings)

    async def start(self) -> None:
        """Read; the public server lets clients in once the group is joined."""
        await self._events.start()
        await super().start()

    async def stop(self) -> None:
        """Send the clients elsewhere, then stop reading: what came meanwhile still reaches them."""
        await self._hub.drain(self.context.settings.drain_s * _DRAIN_SHARE)
        await super().stop()
        await self._verifier.stop()
        await self.context.flush(self._events)

    async def _read(self, stream: AsyncIterator[Batch]) -> None:
        clock = asyncio.get_running_loop().time
        async for batch in stream:
            if not batch.is_live:
                continue  # it comes again, in the next life of its partition
            began = clock()
            for record in batch.records:
                self._push(record)
                if clock() - began > _TURN_S:
                    await asyncio.sleep(0)  # heartbeats, of clients and of Kafka, have their turn
                    began = clock()
            self._hub.advance(batch.tp.partition, batch.end - 1)
            batch.ack_all()

    def _push(self, record: Record) -> None:
        metrics = self.context.metrics
        metrics.ingest_bytes.inc(len(record.value or b""))
        if not self._hub.connections:
            return
        try:
            message = decode(record.value, timestamp_ms=record.timestamp, limits=self.context.limits)
            self._hub.publish(message, record.partition, record.offset)
        except InvalidMessage as error:
            metrics.invalid.labels(self.name, error.reason).inc()
