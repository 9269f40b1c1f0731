"""How many calls one destination may hold at a time, so that none starves the others.

A host that answers is worth a short wait when its places are taken: sending the delivery through
a retry topic would only be slower. A host that does not answer is not: its deliveries must leave
at once, or they fill the window of their partition.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: A wait for a place lasts this long at most, and is not begun when it looks to be longer.
MAX_WAIT_S: Final = 1.0
#: What a call to a host that was never called is taken to last.
_UNKNOWN_CALL_S: Final = 0.05
#: Weight of the newest call in the mean.
_WEIGHT: Final = 0.2
#: Hosts remembered while nothing runs to them.
_MAX_IDLE_HOSTS: Final = 4096


class _Host:
    __slots__ = ("last_end", "mean_s", "places", "starts", "waiting")

    def __init__(self, limit: int) -> None:
        self.places = asyncio.Semaphore(limit)
        self.waiting = 0
        self.starts: dict[Place, float] = {}  # of the calls under way, the oldest first
        self.mean_s = _UNKNOWN_CALL_S
        self.last_end = float("-inf")


class Place:
    """A place at a host, taken: give it back to the gate exactly once.

    `is_warm`: another call to the host ended a moment ago, so a connection is worth keeping.
    """

    __slots__ = ("host", "is_warm")

    def __init__(self, host: str, is_warm: bool) -> None:
        self.host = host
        self.is_warm = is_warm


class Gate:
    """At most `limit` calls to a host at a time. `clock` gives seconds that only grow."""

    def __init__(self, limit: int, *, warm_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._warm_s = warm_s
        self._clock = clock
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    async def enter(self, host: str) -> Place | None:
        """Take a place at `host`, after a short wait where one is in sight; None: it is busy."""
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(self._limit)
        if state.places.locked() and self._expected_wait_s(state) >= MAX_WAIT_S:
            return None
        state.waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await state.places.acquire()
        except TimeoutError:
            return None
        finally:
            state.waiting -= 1
        now = self._clock()
        place = Place(host, now - state.last_end < self._warm_s)
        state.starts[place] = now
        return place

    def leave(self, place: Place) -> None:
        """Give a place back and let the next one in."""
        state = self._hosts[place.host]
        now = self._clock()
        state.mean_s += _WEIGHT * (now - state.starts.pop(place) - state.mean_s)
        state.last_end = now
        state.places.release()
        self._hosts.move_to_end(place.host)
        if len(self._hosts) > _MAX_IDLE_HOSTS:
            self._forget_one()

    def _expected_wait_s(self, state: _Host) -> float:
        """Estimate by the mean of past calls, or the age of the oldest under way: it may hang."""
        oldest = next(iter(state.starts.values()), None)
        age_s = 0.0 if oldest is None else self._clock() - oldest
        return (state.waiting + 1) * max(state.mean_s, age_s) / self._limit

    def _forget_one(self) -> None:
        for host, state in self._hosts.items():  # the one that was quiet longest is first
            if not state.starts and not state.waiting:
                del self._hosts[host]
                return
