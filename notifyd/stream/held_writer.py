"""Records of many writers that are handed over together, while each waits for its own alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from notifyd.stream.producer import Flight, Producer
from notifyd.stream.records import OutRecord

#: Handing over takes no longer than a moment, unless a buffer is full or the broker away: then each goes on
#: by itself, so that a partition without a leader holds up nobody else.
_HAND_OVER_S: Final = 1.0


class _Waiter:
    """Who waits for `records`: those handed over by number, and whether all of them are written.

    `is_written` ends False where the rest needs more patience, and not before the handing over has ended,
    or both would hand over the same; one that gave up cancels it.
    """

    __slots__ = ("flights", "has_failed", "is_handed_over", "is_written", "left", "limit", "records")

    def __init__(self, records: Sequence[OutRecord], is_written: asyncio.Future[bool]) -> None:
        self.records = records
        self.is_written = is_written
        self.flights: dict[int, Flight] = {}
        self.left = len(records)
        self.has_failed = False
        self.is_handed_over = False
        #: Of the handing over, while its own records are at hand.
        self.limit: asyncio.Timeout | None = None

    def landed(self, future: asyncio.Future[Any]) -> None:
        """Note that one of them has ended."""
        if future.cancelled() or future.exception() is not None:
            self.has_failed = True
            if self.is_handed_over:
                self.end(False)
        else:
            self.left -= 1
            if not self.left:
                self.end(True)

    def handed_over(self) -> None:
        """Note that nothing more of it is handed over by others."""
        self.is_handed_over = True
        if self.has_failed or len(self.flights) < len(self.records):
            self.end(False)

    def give_up(self) -> None:
        """Have nothing more of it handed over: where it waits for room just now, all others go on alone."""
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(0.0)

    def end(self, is_written: bool) -> None:
        """Let it go on, unless it has."""
        if not self.is_written.done():
            self.is_written.set_result(is_written)


class HeldWriter:
    """Writes as `Producer.send_held` does; what comes within `linger_s` seconds is handed over in one go.

    One by one, each record would be a request of its own, with a limit, a wait and a place in line for
    each: that is three times the cost.
    """

    def __init__(self, producer: Producer, linger_s: float, *, patience_s: float) -> None:
        self._producer = producer
        self._linger_s = linger_s
        self._patience_s = patience_s
        self._waiters: list[_Waiter] = []
        self._goings: set[asyncio.Task[None]] = set()

    async def write(self, records: Sequence[OutRecord]) -> None:
        """Return once the broker has all of them, and raise as `Producer.send_held`.

        Cancel it to give up: what was not handed over by then is not written.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(records, loop.create_future())
        if not self._waiters:
            loop.call_later(self._linger_s, self._go)
        self._waiters.append(waiter)
        try:
            is_written = await waiter.is_written
        except asyncio.CancelledError:
            waiter.give_up()
            raise
        if is_written:
            self._producer.count_landed(records, waiter.flights)
        else:
            await self._producer.send_held(records, waiter.flights)

    def _go(self) -> None:
        waiters, self._waiters = self._waiters, []
        going = asyncio.create_task(self._see_through(waiters))
        self._goings.add(going)
        going.add_done_callback(self._goings.discard)

    async def _see_through(self, waiters: list[_Waiter]) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HAND_OVER_S) as limit:
                    for waiter in waiters:
                        await self._hand_over(waiter, limit)
            for waiter in waiters:
                waiter.handed_over()
            await asyncio.wait([waiter.is_written for waiter in waiters], timeout=self._patience_s)
        finally:
            for waiter in waiters:
                waiter.end(False)

    async def _hand_over(self, waiter: _Waiter, limit: asyncio.Timeout) -> None:
        waiter.limit = limit
        try:
            for number, record in enumerate(waiter.records):
                if waiter.is_written.done():  # it gave up
                    return
                flight = await self._producer.begin(record)
                if flight is None:
                    return
                waiter.flights[number] = flight
                flight.future.add_done_callback(waiter.landed)
        finally:
            waiter.limit = None
