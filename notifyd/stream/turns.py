"""Who comes next: places for tasks at work, and partitions that take turns at them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from notifyd.stream.batch import Batch, Record
from notifyd.stream.flow import PartitionFlow

#: Records that a partition begins before it lets others have their turn. Places become free in
#: crowds: who came first took them all, and the others got one each time.
_TURN: Final = 8
#: Who holds a place for so long is slow.
SLOW_S: Final = 1.0


class Slots:
    """Places for tasks, given in the order of asking; without a coroutine where a place is free.

    Who has held a place for `slow_s` seconds makes room for who waits, and goes on beside them, `aside` such
    at most: what waits for a peer that does not answer costs no more than its memory, and its place is
    missed by those whose peers do.
    """

    def __init__(self, count: int, *, aside: int = 0, slow_s: float = SLOW_S) -> None:
        self._free = count
        self._room_aside = aside
        self._slow_s = slow_s
        self._waiters: deque[asyncio.Future[int]] = deque()
        self._last = 0
        #: Since when each place is held, the longest first; without those that made room.
        self._since: dict[int, float] = {}
        self._look: asyncio.TimerHandle | None = None

    def take(self) -> int:
        """Take a place if one is free; return its number for `free`, 0 for none."""
        if self._free:
            self._free -= 1
            return self._give()
        return 0

    async def wait(self) -> int:
        """Wait in line for a place, and return its number; it is taken when this returns."""
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(place)
        self._look_in_time()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.free(place.result())  # it was given just before
            raise

    def free(self, number: int) -> None:
        """Give a place back: to who waits longest, if anybody does."""
        if self._since.pop(number, None) is not None:
            self._pass_on()
        else:
            self._room_aside += 1
            self._look_in_time()

    def _pass_on(self) -> None:
        while self._waiters:
            place = self._waiters.popleft()
            if not place.done():
                place.set_result(self._give())
                return
        self._free += 1

    def _give(self) -> int:
        self._last = number = self._last + 1
        self._since[number] = time.monotonic()
        return number

    def _look_in_time(self) -> None:
        """Look for slow ones when the first may be one; only while somebody waits."""
        if self._look is None and self._waiters and self._room_aside and self._since:
            oldest = next(iter(self._since.values()))
            delay_s = max(0.0, oldest + self._slow_s - time.monotonic())
            self._look = asyncio.get_running_loop().call_later(delay_s, self._set_aside)

    def _set_aside(self) -> None:
        self._look = None
        limit = time.monotonic() - self._slow_s
        while self._waiters and self._room_aside and self._since:
            number, since = next(iter(self._since.items()))
            if since > limit:
                break
            del self._since[number]
            self._room_aside -= 1
            self._pass_on()
        self._look_in_time()


class Feeders:
    """Begins the records of each partition in their order, when there is a place: a task for each
    partition that has something. They wait in line for places, so that what one of them has to do
    holds up no other.
    """

    def __init__(
        self, slots: Slots, begin: Callable[[Batch, Record, int], None], fail: Callable[[Exception], None]
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
                    place = slots.take()
                    if not place:
                        place = await slots.wait()
                        turn = 0
                    elif (turn := turn + 1) >= _TURN and len(self._waiting) > 1:
                        await asyncio.sleep(0)
                        turn = 0
                    if not flow.is_live:
                        slots.free(place)
                        return
                    begin(batch, record, place)
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
