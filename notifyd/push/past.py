"""What is older than the window: read from where it is kept for good, beside what is live.

Nothing live waits for it, and nothing in here waits but for the database: a connection whose
turn has not come, whose client does not read, or whose messages are not stored yet, is looked
at again at a later tick of the clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from notifyd.errors import NotifydError
from notifyd.log import get_logger
from notifyd.message.envelope import Message
from notifyd.push.peer import Peer, State
from notifyd.push.protocol import Missing
from notifyd.push.resume import Resume

#: Reads at a time; what a process asks of a database that others write to has to stay small.
_READERS: Final = 2
#: Messages of one read.
PAGE: Final = 100
_BACKOFF_CAP_S: Final = 30.0

Ranges = Mapping[int, tuple[int, int]]

_log = get_logger(component="push")


@dataclass(frozen=True, slots=True)
class PastMessage:
    """A message with its position. `replaced_by`: the id of the newer one of its `collapseKey`, if any."""

    message: Message
    partition: int
    offset: int
    replaced_by: str | None = None


@dataclass(frozen=True, slots=True)
class PastPage:
    """What is stored for a user in some ranges of offsets, all of it read at one moment.

    `marks`: per partition the range [first, next) of which everything is stored; `messages` in the
    order of partition and offset, up to the position `through`; None: there are no more. `is_lost`: some of
    it is too old for anyone to vouch for.
    """

    marks: Mapping[int, tuple[int, int]]
    messages: Sequence[PastMessage]
    through: tuple[int, int] | None = None
    is_lost: bool = False


class Past(Protocol):
    """Where old messages are kept."""

    async def read(self, user: str, ranges: Ranges, limit: int) -> PastPage:
        """Read the first `limit` messages of these ranges, [from, to) each.

        Raises `NotifydError` while it does not answer.
        """


class PastReader:
    """Fills the holes of connections, two at a time; `done` says with what result."""

    def __init__(
        self,
        past: Past,
        *,
        max_replayed: int,
        unsent_bytes: int,
        monotonic: Callable[[], float],
        deliver: Callable[[Peer, PastMessage], bool],
        done: Callable[[Peer, Resume, Missing | None], None],
    ) -> None:
        self._past = past
        self._max_replayed = max_replayed
        self._unsent_bytes = unsent_bytes
        self._monotonic = monotonic
        self._deliver = deliver
        self._done = done
        self._queue: deque[Peer] = deque()
        self._later: list[tuple[float, Peer]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._resumes_at = 0.0

    def begin(self, connection: Peer) -> None:
        """Put a connection with holes in line."""
        self._queue.append(connection)
        self._start()

    def run_due(self) -> None:
        """Look at those whose time has come."""
        now_s = self._monotonic()
        if self._later:
            waiting, self._later = self._later, []
            for due_at, connection in waiting:
                if due_at > now_s:
                    self._later.append((due_at, connection))
                else:
                    self._queue.append(connection)
        self._start()

    async def stop(self) -> None:
        """End all reads."""
        self._queue.clear()
        self._later.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Within

    def _start(self) -> None:
        while (
            self._queue
            and len(self._tasks) < min(_READERS, len(self._queue))
            and self._monotonic() >= self._resumes_at
        ):
            task = asyncio.create_task(self._work(), name="push past")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while self._queue and self._monotonic() >= self._resumes_at:
            connection = self._queue.popleft()
            resume = connection.resume
            if connection.state is not State.OPEN or resume is None or not resume.holes:
                continue
            if connection.unsent > self._unsent_bytes:
                self._wait(connection, 0.0)
                continue
            try:
                page = await self._past.read(connection.user, resume.todo, PAGE)
            except NotifydError as error:
                self._fail(connection, error.message, error.reason)
            except Exception as error:  # the outer edge of this task: its clients must not wait for ever
                self._fail(connection, f"{type(error).__name__}: {error}", "internal")
            else:
                if self._failures:
                    _log.info("push_past_answers", failures=self._failures)
                    self._failures = 0
                if connection.state is State.OPEN and connection.resume is resume:
                    self._take(connection, resume, page)

    def _fail(self, connection: Peer, error: str, reason: str) -> None:
        if not self._failures:
            _log.warning("push_past_away", error=error, reason=reason, waiting=len(self._queue) + 1)
        self._failures += 1
        ceiling_s = min(_BACKOFF_CAP_S, 0.5 * 2 ** min(self._failures, 10))
        self._resumes_at = self._monotonic() + random.uniform(0.5, 1) * ceiling_s
        self._queue.appendleft(connection)

    def _take(self, connection: Peer, resume: Resume, page: PastPage) -> None:
        """Send a page, or find that it is not complete."""
        if page.is_lost:
            self._done(connection, resume, "inbox")
            return
        marks = page.marks
        if any(p not in marks or marks[p][1] < end for p, (_, end) in resume.todo.items()):
            # It is in Kafka and not stored yet: to read an inbox would not help either.
            resume.waits = min(resume.waits + 1, 5)
            self._wait(connection, min(_BACKOFF_CAP_S, 2.0**resume.waits))
            return
        is_before = any(marks[p][0] > start for p, (start, _) in resume.todo.items())
        if is_before or resume.past_count > self._max_replayed:
            self._done(connection, resume, "inbox")
            return
        for one in page.messages:
            if connection.unsent > self._unsent_bytes:
                self._wait(connection, 0.0)
                return
            resume.past_count += 1
            if self._deliver(connection, one):
                resume.replayed += 1
            if connection.state is not State.OPEN:
                return
            _pass(resume, one.partition, one.offset)
        if page.through is None:
            if connection.unsent > self._unsent_bytes:
                self._wait(connection, 0.0)  # the welcome has to wait for room, too
            else:
                self._done(connection, resume, None)
        else:
            _pass(resume, *page.through)
            self._queue.append(connection)

    def _wait(self, connection: Peer, wait_s: float) -> None:
        self._later.append((self._monotonic() + wait_s, connection))


def _pass(resume: Resume, partition: int, offset: int) -> None:
    """Note that all up to a position, in the order of partitions and offsets, is done with."""
    resume.todo = {number: span for number, span in resume.todo.items() if number >= partition}
    resume.todo[partition] = (offset + 1, resume.todo[partition][1])
