"""The flow of one partition during one assignment: window, delay, work in flight, its end."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from faust.types import TP

from notifyd.stream.batch import Batch, Record
from notifyd.stream.ledger import PartitionLedger


class PartitionFlow:
    """One partition for as long as it is ours (an epoch), from its assignment to its end.

    `window` bounds the records in flight, `window_bytes` their size: a full window pauses this
    partition alone. `delay_s` makes it a retry topic: a record is handed over once it is that
    old, and what is not due waits here, at the head of its partition. `on_change` is called
    when something may be read again, `on_failure` when work of a live partition ended and left
    its records behind, unacknowledged: nobody would ever come back to them.

    Its stages: opened with `start_at`, live, draining (nothing new is begun, what runs may
    end), closed (late acks change nothing, what still runs is cancelled).
    """

    def __init__(
        self,
        tp: TP,
        *,
        window: int,
        window_bytes: int = sys.maxsize,
        delay_s: float = 0.0,
        on_change: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.tp = tp
        self._window = window
        # Reading goes on once a quarter of the window is free: not record by record, at each ack.
        self._resume_at = window - max(1, window // 4)
        self._resume_at_bytes = window_bytes - window_bytes // 4
        self._is_paused = False
        #: A record is handed over once it is that old.
        self.delay_ms = int(delay_s * 1000)
        self._on_change = on_change
        self._on_failure = on_failure
        self._ledger: PartitionLedger | None = None
        #: Records of a delayed partition, each with the time when it is due (ms since 1970).
        self._parked: deque[tuple[int, Record]] = deque()
        self._handed_over = 0
        # First offset and timestamp (ms) of each fetch that is not wholly acked.
        self._fetches: deque[tuple[int, int]] = deque()
        self._tasks: dict[asyncio.Task[object], tuple[Record | Batch, Callable[[], None] | None]] = {}
        #: Records in line behind one of the same key that is being worked on; `None` where nobody waits.
        self.lines: dict[bytes, deque[tuple[Batch, Record]] | None] = {}
        #: Records whose work is done, by the future that they wait for together.
        self.shared: dict[asyncio.Future[None], list[tuple[Batch, Record]]] = {}
        #: Batches in line behind the one that is being worked on; `None` where none is.
        self.waiting: deque[Batch] | None = None
        self._is_draining = False
        self._is_closed = False
        self._idle: asyncio.Event | None = None

    # Start

    def start_at(self, offset: int) -> None:
        """Open the ledger: reading begins at `offset`."""
        self._ledger = PartitionLedger(offset)
        self._handed_over = offset
        self._on_change()

    @property
    def is_started(self) -> bool:
        """Whether the place to read from is known."""
        return self._ledger is not None

    # Reading

    @property
    def is_live(self) -> bool:
        """Whether new work may begin."""
        return not self._is_draining and self._ledger is not None

    @property
    def is_closed(self) -> bool:
        """Whether the epoch has ended: the partition is another's, or begins anew."""
        return self._is_closed

    @property
    def room(self) -> int:
        """How many records may be read now; 0 pauses the partition until `on_change`."""
        ledger = self._ledger
        if ledger is None or self._parked or self._is_draining:
            return 0
        self._is_paused = self._is_full(ledger)
        return 0 if self._is_paused else self._window - ledger.in_flight

    def _is_full(self, ledger: PartitionLedger) -> bool:
        return ledger.in_flight > self._resume_at or ledger.in_flight_bytes > self._resume_at_bytes

    @property
    def in_flight(self) -> int:
        """Records read and not acked, those that wait for their time included."""
        return self._ledger.in_flight if self._ledger is not None else 0

    def oldest_ms(self) -> int | None:
        """Timestamp (ms) of about the oldest record in flight: that of the first of its fetch."""
        if self._ledger is None or not self.in_flight:
            self._fetches.clear()
            return None
        held = self._ledger.committable
        while len(self._fetches) > 1 and self._fetches[1][0] <= held:
            self._fetches.popleft()
        return self._fetches[0][1] if self._fetches else None

    @property
    def position(self) -> int | None:
        """The offset to be read next."""
        return self._ledger.position if self._ledger is not None else None

    def take(self, records: Sequence[Record], position: int, now_ms: int) -> Batch | None:
        """Enter records just fetched; return those to hand over now, if any."""
        assert self._ledger is not None
        if not records:
            self._ledger.skip_to(position)
            return None
        sizes = [len(record.value or b"") for record in records]
        self._ledger.read([record.offset for record in records], position, sizes)
        self._fetches.append((records[0].offset, records[0].timestamp))
        if not self.delay_ms:
            return self._batch(records, position)
        # By the clock of whoever wrote it, but no later than if it had been written just now: one
        # host whose clock is ahead must not hold up all that come behind it.
        self._parked.extend((min(record.timestamp, now_ms) + self.delay_ms, record) for record in records)
        return self.due(now_ms)

    def due(self, now_ms: int) -> Batch | None:
        """Return the parked records whose time has come, in order, if any."""
        if not self._parked or not self.is_live:
            return None
        ready = []
        while self._parked and self._parked[0][0] <= now_ms:
            ready.append(self._parked.popleft()[1])
        if not ready:
            return None
        assert self._ledger is not None
        end = self._parked[0][1].offset if self._parked else self._ledger.position
        return self._batch(ready, end)

    @property
    def next_due_ms(self) -> int | None:
        """When the head of a delayed partition is due (ms since 1970); `None` without one."""
        return self._parked[0][0] if self._parked and self.is_live else None

    def _batch(self, records: Sequence[Record], end: int) -> Batch:
        start, self._handed_over = self._handed_over, end
        return Batch(self, records, start, end)

    # Acks and commits

    def ack(self, offset: int) -> None:
        """Acknowledge one record; does nothing once the partition is gone."""
        ledger = self._ledger
        if ledger is not None and ledger.ack(offset) and self._is_paused:
            self._may_resume(ledger)

    def ack_all(self, records: Sequence[Record]) -> None:
        """Acknowledge many records at once."""
        ledger = self._ledger
        if ledger is None:
            return
        ledger.ack_all([record.offset for record in records])
        if self._is_paused:
            self._may_resume(ledger)

    def _may_resume(self, ledger: PartitionLedger) -> None:
        if not self._is_full(ledger):
            self._is_paused = False
            self._on_change()

    @property
    def committable(self) -> int | None:
        """The lowest offset not acknowledged: where the partition has to be read on from."""
        return self._ledger.committable if self._ledger is not None else None

    @property
    def uncommitted(self) -> int | None:
        """The offset to commit now, if it differs from what the broker has."""
        return self._ledger.uncommitted if self._ledger is not None else None

    def committed(self, offset: int) -> None:
        """Note what the broker has stored."""
        if self._ledger is not None:
            self._ledger.committed(offset)

    # Work

    def begin(
        self, work: Coroutine[Any, Any, object], on: Record | Batch, after: Callable[[], None] | None = None
    ) -> asyncio.Task[object]:
        """Run `work` as a task of this epoch: it is waited for in a drain, then cancelled.

        `on` is the record or batch that it works on, for `running`. `after` is called when the
        task has ended, also when it was cancelled before its first step, in which no `finally`
        of its own would run.
        """
        # Not `create_task`: a name made up for each and two calls more are 0.2 us of a record's 2.5.
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), name="work")
        self._tasks[task] = (on, after)
        task.add_done_callback(self._ended)
        if self._is_closed:  # begun by work that did not hear its own end
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        _, after = self._tasks.pop(task)
        if after is not None:
            after()
        if not self._tasks and self._idle is not None:
            self._idle.set()
            self._idle = None
        if self._is_closed:
            return
        if task.cancelled():
            self._on_failure(RuntimeError(f"work on {self.tp.topic}:{self.tp.partition} cancelled itself"))
        elif (error := task.exception()) is not None:
            self._on_failure(error)

    @property
    def running(self) -> list[str]:
        """What is still at work, as topic:partition@offset."""
        offsets = sorted(on.start if isinstance(on, Batch) else on.offset for on, _ in self._tasks.values())
        return [f"{self.tp.topic}:{self.tp.partition}@{offset}" for offset in offsets]

    # End

    def drain(self) -> None:
        """Begin nothing new; what waits for its time is left for the next owner."""
        self._is_draining = True
        self._parked.clear()

    async def wait_idle(self) -> None:
        """Return when no task is at work; the caller sets the limit."""
        while self._tasks:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """End the epoch: late acks change nothing, tasks still at work are cancelled."""
        self._is_draining = True
        self._is_closed = True
        self._parked.clear()
        if self._ledger is not None:
            self._ledger.close()
        for task in list(self._tasks):
            task.cancel()
