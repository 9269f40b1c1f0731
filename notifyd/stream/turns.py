"""Who comes next: places for tasks at work, and partitions that take turns at them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from notifyd.stream.batch import Batch, Record
from notifyd.stream.flow import PartitionFlow

#: Records that a partition begins before it lets others have their turn. Places become free in
#: crowds: who came first took them all, and the others got one each time.
_TURN: Final = 8


class Slots:
    """Places for tasks, given in the order of asking; without a coroutine where a place is free."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Wait in line for a place; it is taken when this returns."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.free()  # it was given just before
            raise

    def free(self) -> None:
        """Give a place back: to who waits longest, if anybody does."""
        while self._waiters:
            place = self._waiters.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Feeders:
    """Begins the records of each partition in their order, when there is a place: a task for each
    partition that has something. They wait in line for places, so that what one of them has to do
    holds up no other.
    """

    def __init__(
        self, slots: Slots, begin: Callable[[Batch, Record], None], fail: Callable[[Exception], None]
    ) -> None:
        self._slots = slots
        self._begin = begin
        self._fail = fail
        self._waiting: dict[PartitionFlow, deque[Batch]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, batch: Batch) -> None:
        """Take a batch; the window of its partition bounds how many wait."""
        batches = self._waiting.get(batch.flow)
        if batches is not None:
            batches.append(batch)
            return
        batches = self._waiting[batch.flow] = deque([batch])
        task = asyncio.create_task(self._feed(batch.flow, batches))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def end(self) -> None:
        """Begin nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _feed(self, flow: PartitionFlow, batches: deque[Batch]) -> None:
        slots, begin, lines = self._slots, self._begin, flow.lines
        turn = 0
        try:
            while batches:
                batch = batches.popleft()
                for record in batch.records:
                    key = record.key
                    if key and key in lines:
                        line = lines[key]
                        if line is None:
                            line = lines[key] = deque()
                        line.append((batch, record))
                        continue
                    if not slots.take():
                        await slots.wait()
                        turn = 0
                    elif (turn := turn + 1) >= _TURN and len(self._waiting) > 1:
                        await asyncio.sleep(0)
                        turn = 0
                    if not flow.is_live:
                        slots.free()
                        return
                    begin(batch, record)
        finally:
            del self._waiting[flow]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)


def put_in_line(batch: Batch) -> bool:
    """Put a batch behind those of its partition; true where somebody has to begin with the partition."""
    if batch.flow.waiting is not None:
        batch.flow.waiting.append(batch)
        return False
    batch.flow.waiting = deque([batch])
    return True


def is_in_line(flow: PartitionFlow) -> bool:
    """Whether anything of a partition waits; where nothing does, its next batch is a first one."""
    if flow.waiting:
        return True
    flow.waiting = None
    return False


def take_from_line(flow: PartitionFlow, most: int) -> Batch:
    """Take the first batch, joined with those behind it as long as it is `most` records together."""
    assert flow.waiting
    taken = [flow.waiting.popleft()]
    count = len(taken[0].records)
    while flow.waiting and count + len(flow.waiting[0].records) <= most:
        taken.append(flow.waiting.popleft())
        count += len(taken[-1].records)
    return Batch.joined(taken)
