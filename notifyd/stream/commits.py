"""Commits of a consumer: what the ledgers allow, one commit at a time, each with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from notifyd.errors import TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.stream.clients import as_notifyd_error
from notifyd.stream.flow import PartitionFlow

_log = get_logger()


class Commits:
    """Commits offsets of flows through `client`, an `AIOKafkaConsumer`; `None` commits nothing.

    aiokafka repeats a commit for as long as the coordinator is away, and signs each try with
    the generation of that moment: one that outlives its assignment would take partitions that
    are another's by now back to an old place. So the commit at an interval ends before the
    last one of an assignment begins. `fail` is called with an error that no repetition mends.
    """

    def __init__(
        self, client: Any, metrics: Metrics, role: str, fail: Callable[[BaseException], None]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._role = role
        self._fail = fail
        self._routine: asyncio.Task[bool] | None = None

    async def routine(self, flows: Iterable[PartitionFlow], *, limit_s: float) -> None:
        """Commit as the interval has passed; ends early when a last commit begins."""
        task = self._routine = asyncio.create_task(self._commit(flows, limit_s))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()

    async def last(self, flows: Iterable[PartitionFlow], *, limit_s: float) -> bool:
        """Commit what `flows` allow before they are let go; true if the broker has stored it."""
        await self.end_routine()
        return await self._commit(flows, limit_s)

    async def end_routine(self) -> None:
        """End the commit under way, if there is one: what it is about is being let go, or was lost."""
        if self._routine is not None and not self._routine.done():
            self._routine.cancel()
            await asyncio.wait({self._routine})

    async def _commit(self, flows: Iterable[PartitionFlow], limit_s: float) -> bool:
        due = {flow: offset for flow in flows if (offset := flow.uncommitted) is not None}
        if not due or self._client is None:
            return False
        offsets = {
            TopicPartition(flow.tp.topic, flow.tp.partition): OffsetAndMetadata(offset, "")
            for flow, offset in due.items()
        }
        try:
            async with asyncio.timeout(limit_s):
                await self._client.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            # The group has moved on: others read from the last commit, our acks are void.
            self._count("fenced")
            return False
        except (KafkaError, TimeoutError) as error:
            self._count("failed")
            _log.warning("commit_failed", role=self._role, error=repr(error))
            found = as_notifyd_error(error, "committing offsets")
            if not isinstance(found, TransientError):
                self._fail(found)
            return False
        except Exception as error:  # its caller's task would end, and with it all commits
            self._fail(error)
            return False
        for flow, offset in due.items():
            flow.committed(offset)
        self._count("done")
        return True

    def _count(self, result: str) -> None:
        self._metrics.commits.labels(self._role, result).inc()
