"""How far the other roles have come, as the sweep needs to know it before it may judge anything."""

from __future__ import annotations

import time
from dataclasses import dataclass

from notifyd.delivery.overdue import Progress
from notifyd.delivery.retry import RUNGS
from notifyd.roles.streaming import group_of
from notifyd.settings import Settings
from notifyd.store.sweep import SweepStore
from notifyd.stream.progress import GroupProgress
from notifyd.stream.topics import Topics


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far the others were at `at_ms`, and where the events topic ended after that was read."""

    progress: Progress
    at_ms: int
    ends: dict[int, int]


class Outlook:
    """Takes snapshots, and tells when everything is stored that had been written when one was taken."""

    def __init__(self, settings: Settings, incarnation: str, store: SweepStore) -> None:
        self._topics = Topics.of(settings)
        self._incarnation = incarnation
        self._store = store
        self._deliver = GroupProgress(settings, group_of(settings, "deliver"))

    async def stop(self) -> None:
        """Let go of the connections to Kafka."""
        await self._deliver.stop()

    async def take(self) -> Snapshot:
        """Read the commits of `deliver` and the positions of `ws`, and then the end of the events."""
        topics, at_ms = self._topics, int(time.time() * 1000)
        progress = Progress(
            incarnation=self._incarnation,
            committed=await self._deliver.committed(topics.messages),
            resend_is_done=await self._deliver.is_done(topics.resend),
            retry_is_done=all(
                [await self._deliver.is_done(topics.retry[rung], delay_s=delay_s) for rung, delay_s in RUNGS]
            ),
            pods=await self._store.pods(self._incarnation),
        )
        return Snapshot(progress, at_ms, await self._deliver.ends_at(topics.events))

    async def is_stored(self, snapshot: Snapshot) -> bool:
        """Whether `persist` has stored every event that had been written when the snapshot was taken."""
        marks = await self._store.marks(self._incarnation, self._topics.events, list(snapshot.ends))
        return all(marks.get(number, 0) >= end for number, end in snapshot.ends.items())
