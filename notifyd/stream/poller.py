"""Reading: looks at each partition in turn, takes what its window allows, waits for more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka.errors import ConsumerStoppedError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition
from faust.types import TP

from notifyd.errors import PermanentError
from notifyd.log import get_logger
from notifyd.stream.batch import Batch
from notifyd.stream.flow import PartitionFlow

_log = get_logger()

#: It polls at least this often, whatever is paused: aiokafka takes a consumer that does not
#: poll for `max_poll_interval` out of the group.
POLL_AT_LEAST_S = 1.0


class Poller:
    """Takes records out of aiokafka's fetcher into flows, without ever waiting for one partition.

    `client` is the `AIOKafkaConsumer`. It reads through `fetched_records` of one partition at
    a time, so that a partition with much to give cannot starve the others; one that is not
    asked keeps at most one fetch in aiokafka's buffer. `on_lost` is called with a flow whose
    offset the broker no longer has. `polled_at` is the monotonic time of the last poll.
    """

    def __init__(
        self,
        client: Any,
        flows: Mapping[TP, PartitionFlow],
        *,
        max_records: int,
        on_lost: Callable[[PartitionFlow], None],
    ) -> None:
        self._client = client
        self._flows = flows
        self._max_records = max_records
        self._on_lost = on_lost
        self._wake = asyncio.Event()
        self._rotation = 0
        #: `None` before the first poll: until the group is joined there is nothing to poll.
        self.polled_at: float | None = None

    def wake(self) -> None:
        """End a wait: something may be read again."""
        self._wake.set()

    def poll(self) -> list[PartitionFlow]:
        """Begin a round: the flows in the order to serve them, which moves on each time.

        Raises `KafkaError` when aiokafka's coordination has failed, `PermanentError` when one
        of its tasks has ended: without them nothing is fetched or joined again, in silence.
        """
        self._check_tasks()
        self._client._coordinator.check_errors()
        self.polled_at = time.monotonic()
        flows = list(self._flows.values())
        if flows:
            self._rotation = (self._rotation + 1) % len(flows)
        return flows[self._rotation :] + flows[: self._rotation]

    def _check_tasks(self) -> None:
        if self._client._closed:
            raise ConsumerStoppedError
        coordination = self._client._coordinator._coordination_task
        for name, task in (("coordination", coordination), ("fetch", self._client._fetcher._fetch_task)):
            if task.done():
                error = None if task.cancelled() else task.exception()
                raise PermanentError(
                    f"the {name} task of aiokafka has ended" + (f": {error!r}" if error else ""),
                    reason="engine_broken",
                    remedy="what was not acknowledged is read again after a restart; please report it",
                ) from error

    async def take(self, flow: PartitionFlow) -> Batch | None:
        """Return the next batch of a flow: records that are due, or freshly fetched; never waits."""
        now_ms = int(time.time() * 1000)
        batch = flow.due(now_ms)
        if batch is None and (room := flow.room):
            batch = await self._fetch(flow, min(room, self._max_records), now_ms)
        return batch

    async def _fetch(self, flow: PartitionFlow, limit: int, now_ms: int) -> Batch | None:
        tp = TopicPartition(flow.tp.topic, flow.tp.partition)
        subscriptions = self._client._subscription
        if subscriptions.reassignment_in_progress or not subscriptions.is_assigned(tp):
            return None
        error: Exception | None = None
        records: list[Any] = []
        with subscriptions.fetch_context():
            # The context loses count when an exception passes through it.
            try:
                # Never an empty set here: it would mean all partitions.
                got = await self._client._fetcher.fetched_records({tp}, timeout=0, max_records=limit)
                records = got.get(tp, [])
            except Exception as caught:  # of a codec, too; raised below, or handled
                error = caught
        if error is not None:
            self._on_error(flow, error)
            return None
        position = subscriptions.subscription.assignment.state_value(tp).position
        return flow.take(records, position, now_ms) if records or position != flow.position else None

    def _on_error(self, flow: PartitionFlow, error: Exception) -> None:
        if isinstance(error, NoOffsetForPartitionError):
            return  # from before the place was set; the next fetch has one
        if not isinstance(error, OffsetOutOfRangeError):
            raise error
        _log.error(
            "offset_out_of_range", topic=flow.tp.topic, partition=flow.tp.partition, offset=flow.position
        )
        self._on_lost(flow)

    async def wait(self) -> None:
        """Wait for new data, for a window that opens, for a record that is due; a second at most."""
        limit_s = POLL_AT_LEAST_S
        dues = [due for flow in self._flows.values() if (due := flow.next_due_ms) is not None]
        if dues:
            limit_s = min(limit_s, max(0.0, min(dues) / 1000 - time.time()))
        waiter = self._client._fetcher._create_fetch_waiter()
        woken = asyncio.ensure_future(self._wake.wait())
        with self._client._subscription.fetch_context():
            await asyncio.wait({waiter, woken}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        self._wake.clear()
        if not waiter.done():
            waiter.cancel()
        elif not waiter.cancelled():
            waiter.result()
