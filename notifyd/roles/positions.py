"""A `ws` process tells how far it has come: every few seconds, and once more as it leaves."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Final, Protocol

from notifyd.delivery.pod import PodPosition, encode_position
from notifyd.errors import NotifydError
from notifyd.roles.context import RoleContext
from notifyd.stream.events import EventWriter, partition_of
from notifyd.stream.producer import OutRecord

#: Between two positions; after `_LASTS_S` without one the process counts as gone.
_EVERY_S: Final = 5.0
_LASTS_S: Final = 30.0


class Pushing(Protocol):
    """What has passed: the hub."""

    @property
    def positions(self) -> Mapping[int, int]:
        """Offset per partition up to which every message has been looked at."""

    @property
    def connections(self) -> int:
        """Open connections."""


class Positions:
    """Writes the position of this life of the process, behind all events that it covers.

    `starts`: per partition the offset from which on messages were pushed. It is the caller's to keep.
    """

    def __init__(
        self, context: RoleContext, events: EventWriter, pushing: Pushing, starts: Mapping[int, int]
    ) -> None:
        self._context = context
        self._events = events
        self._pushing = pushing
        self._starts = starts
        self._boot = uuid.uuid4().hex
        self._partitions = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell."""
        self._partitions = await self._context.producer.partitions(self._context.topics.events)
        self._task = asyncio.create_task(self._run(), name="ws positions")

    async def stop(self, limit_s: float) -> None:
        """Tell the last one within `limit_s`; without it the next 30 s take us for alive."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            try:
                async with asyncio.timeout(limit_s):
                    await self._tell(lasts_s=0.0)
            except (TimeoutError, NotifydError):
                pass

    async def _run(self) -> None:
        try:
            while True:
                await self._tell(lasts_s=_LASTS_S)
                await asyncio.sleep(_EVERY_S)
        except NotifydError as error:
            if error.reason != "producer_stopped":
                self._context.fail(error)

    async def _tell(self, *, lasts_s: float) -> None:
        done = dict(self._pushing.positions)
        if not done:
            return
        # What was put in line up to there is written within this turn of the loop, and its events are
        # handed over with it; a connection that does not read may be later, and its `sent` counts then, too.
        await asyncio.sleep(0)
        await self._events.settle()
        position = PodPosition(
            boot=self._boot,
            pod=self._context.settings.pod_name,
            incarnation=self._context.incarnation,
            start={partition: self._starts.get(partition, 0) for partition in done},
            done=done,
            connections=self._pushing.connections,
            at=int(time.time() * 1000),
            lasts_s=lasts_s,
        )
        record = OutRecord(
            self._context.topics.events,
            encode_position(position),
            partition=partition_of(self._boot, self._partitions),
        )
        await self._context.producer.send_held([record])
