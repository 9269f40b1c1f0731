"""The parts of Faust's consumer interface that the engine does not use, in one place.

Faust's consumer acks in a `finally`, skips holes of one record and loses the acks of revoked
partitions. The engine keeps the interface and replaces all of that; what is left here either
does nothing or must never be called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP
from mode import Service

#: Faust's own lines about its services; quiet unless at debug.
faust_log = logging.getLogger("faust.notifyd")


class FaustSeams(FaustConsumer):
    """Faust's consumer without its acking, tracking, seeking and committing."""

    logger = faust_log

    @Service.task
    async def _commit_livelock_detector(self) -> None:
        """Not used: the ledgers and their metrics show a partition that stands still."""

    def ack(self, message: Any) -> bool:
        """Faust acks an event when its agent turns to the next one. Records are acked by batches."""
        return False

    def track_message(self, message: Any) -> None:
        """Not used: ledgers keep track."""

    async def wait_empty(self) -> None:
        """Not used: the engine drains in `let_go`."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise NotImplementedError("commits come from the ledgers")

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        raise NotImplementedError("reading is `_drain_messages`")

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Never called: places come from `plan_starts`."""
        raise NotImplementedError("places come from `plan_starts`")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Never called: places come from `plan_starts`."""
        raise NotImplementedError("places come from `plan_starts`")

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError("places come from `plan_starts`")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def _to_message(self, tp: TP, record: Any) -> Any:
        raise NotImplementedError("events are batches")

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """Return the partition as given: nothing is produced through Faust."""
        return partition

    async def create_topic(self, topic: str, partitions: int, replication: int, **_: Any) -> None:
        """Refuse: workers never create topics, `notifyd topics create` does."""
        raise NotImplementedError("workers never create topics; `notifyd topics create` does")
