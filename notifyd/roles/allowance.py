"""How many there may be in a second: resends, so that an outage becomes no storm, and calls of a channel."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable


class Allowance:
    """`per_s` in any second, however long there was nothing to do before; below one, one in so long.

    A bucket that fills up in idle times would let twice as many out at once. `clock` is monotonic seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        most = max(1, int(per_s))
        self._window_s = most / per_s
        self._taken: deque[float] = deque(maxlen=most)

    def take(self) -> bool:
        """Take one, if there is one."""
        if self.wait_s() > 0:
            return False
        self._taken.append(self._clock())
        return True

    def wait_s(self) -> float:
        """Return in how many seconds there is one again; 0 where there is one now."""
        if len(self._taken) < (self._taken.maxlen or 0):
            return 0.0
        return max(0.0, self._taken[0] + self._window_s - self._clock())


class Turns:
    """Turns of one channel, `per_s` in any second; nobody waits longer than `max_wait_s` for one."""

    def __init__(self, per_s: float, max_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(per_s, clock)
        self._max_waiting = per_s * max_wait_s
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._waiting = 0

    async def take(self) -> bool:
        """Wait for a turn; False, mostly at once, where none comes in time."""
        if self._allowance.take():
            return True
        if self._waiting >= self._max_waiting:
            return False
        ends_at = self._clock() + self._max_wait_s
        self._waiting += 1
        try:
            while (wait_s := self._allowance.wait_s()) <= ends_at - self._clock():
                await asyncio.sleep(wait_s)
                if self._allowance.take():
                    return True
            return False
        finally:
            self._waiting -= 1
