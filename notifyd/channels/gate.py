"""How many calls one destination may hold at a time, so that none starves the others.

A host that answers is worth a short wait when its places are taken: sending the delivery through
a retry topic would only be slower. A host that does not answer is not: its deliveries must leave
at once, or they fill the window of their partition. One that failed many calls in a row is down: a
single call in a while sees whether it is back, and what comes meanwhile costs no place and no attempt.

To put a delivery off costs nearly what a call does. So few come back soon, and the others once it may be
worth it: a host with a backlog would have them go round and round, and take the time from the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge

#: A wait for a place lasts this long at most, and is not begun when it looks to be longer.
MAX_WAIT_S: Final = 1.0
#: What a call to a host that was never called is taken to last.
_UNKNOWN_CALL_S: Final = 0.05
#: Places at a host that has not answered yet: if it hangs, that is all it takes from others.
_UNKNOWN_PLACES: Final = 5
#: Weight of the newest call in the mean.
_WEIGHT: Final = 0.2
#: Hosts remembered while nothing runs to them.
_MAX_IDLE_HOSTS: Final = 4096
#: A host that failed so many calls in a row is down.
DOWN_AFTER: Final = 10
#: Between two calls that see whether it is back.
PROBE_S: Final = 5.0
#: Those who are put off soon come back after this time, by the shortest rung, and are counted anew.
_ROUND_S: Final = 5.0
#: So many go round for a host that is down: what a quiet host has, and the next probe.
SOON: Final = 20
#: For a busy one, as many as it would take this long to serve: it must not run out of them.
_LONG_S: Final = 30.0
#: The rung that "for long" means.
PUT_OFF_S: Final = 60.0


class _Host:
    __slots__ = (
        "failures",
        "is_down",
        "last_end",
        "limit",
        "mean_s",
        "places",
        "probe_at",
        "put_off",
        "round_ends",
        "starts",
        "waiting",
    )

    def __init__(self, limit: int) -> None:
        #: Calls at a time.
        self.limit = limit
        self.places = asyncio.Semaphore(limit)
        self.waiting = 0
        self.starts: dict[Place, float] = {}  # of the calls under way, the oldest first
        self.mean_s = _UNKNOWN_CALL_S
        self.last_end = float("-inf")
        #: Calls in a row that failed, and whether it is down for that.
        self.failures = 0
        self.is_down = False
        #: When the next call may see whether it is back.
        self.probe_at = 0.0
        #: Deliveries put off in this round, and when the next one begins.
        self.put_off = 0
        self.round_ends = 0.0


class Place:
    """A place at a host, taken: give it back to the gate exactly once.

    `is_warm`: another call to the host ended a moment ago, so a connection is worth keeping.
    """

    __slots__ = ("host", "is_warm")

    def __init__(self, host: str, is_warm: bool) -> None:
        self.host = host
        self.is_warm = is_warm


@dataclass(frozen=True, slots=True)
class Closed:
    """No place, for the `reason` `host_busy` or `host_down`: come back after so long, None for soon."""

    reason: str
    after_s: float | None = None


class Gate:
    """At most `limit` calls to a host at a time, few until it has answered.

    `clock` gives seconds that only grow; `down` shows how many hosts are down.
    """

    def __init__(self, limit: int, *, warm_s: float, clock: Callable[[], float], down: Gauge) -> None:
        self._limit = limit
        self._warm_s = warm_s
        self._clock = clock
        self._down = down
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    async def enter(self, host: str) -> Place | Closed:
        """Take a place at `host`, after a short wait where one is in sight."""
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(min(self._limit, _UNKNOWN_PLACES))
        is_probe = state.is_down
        if is_probe:
            if self._clock() < state.probe_at:
                return self._down_for_now(state)
            state.probe_at = self._clock() + PROBE_S
        if state.places.locked() and self._expected_wait_s(state, state.waiting) >= MAX_WAIT_S:
            return self._busy(state)
        if not state.places.locked():
            await state.places.acquire()  # at once; a limit of time costs more than all of this
        else:
            state.waiting += 1
            try:
                async with asyncio.timeout(MAX_WAIT_S):
                    await state.places.acquire()
            except TimeoutError:
                return self._busy(state)
            finally:
                state.waiting -= 1
        if state.is_down and not is_probe:
            state.places.release()
            return self._down_for_now(state)
        now = self._clock()
        place = Place(host, now - state.last_end < self._warm_s)
        state.starts[place] = now
        return place

    def leave(self, place: Place, *, has_failed: bool | None = None) -> None:
        """Give a place back and let the next one in. None: the call says nothing about the host."""
        state = self._hosts[place.host]
        now = self._clock()
        state.mean_s += _WEIGHT * (now - state.starts.pop(place) - state.mean_s)
        state.last_end = now
        if has_failed is not None:
            self._judge(state, now, has_failed)
        state.places.release()
        self._hosts.move_to_end(place.host)
        if len(self._hosts) > _MAX_IDLE_HOSTS:
            self._forget_one()

    def _judge(self, state: _Host, now: float, has_failed: bool) -> None:
        state.failures = state.failures + 1 if has_failed else 0
        if not has_failed and state.limit < self._limit:
            for _ in range(self._limit - state.limit):
                state.places.release()
            state.limit = self._limit
        if not has_failed and state.is_down:
            state.is_down = False
            self._down.dec()
        elif state.failures >= DOWN_AFTER and not state.is_down:
            state.is_down, state.probe_at = True, now + PROBE_S
            self._down.inc()

    def _down_for_now(self, state: _Host) -> Closed:
        is_long = self._count_put_off(state) > SOON
        return Closed("host_down", PUT_OFF_S if is_long else None)

    def _busy(self, state: _Host) -> Closed:
        ahead = self._count_put_off(state)
        # Where none has ended well so far, the first answer may be on the way.
        is_new = state.limit < self._limit and self._age_s(state) < MAX_WAIT_S
        is_long = not is_new and self._expected_wait_s(state, ahead) > _LONG_S
        return Closed("host_busy", PUT_OFF_S if is_long else None)

    def _count_put_off(self, state: _Host) -> int:
        now = self._clock()
        if now >= state.round_ends:
            state.put_off, state.round_ends = 0, now + _ROUND_S
        state.put_off += 1
        return state.put_off

    def _expected_wait_s(self, state: _Host, ahead: int) -> float:
        """Estimate by the mean of past calls, or the age of the oldest under way: it may hang.

        By the mean it has all its places, an unknown one too: they are there with its first answer.
        """
        return (ahead + 1) * max(state.mean_s / self._limit, self._age_s(state) / state.limit)

    def _age_s(self, state: _Host) -> float:
        oldest = next(iter(state.starts.values()), None)
        return 0.0 if oldest is None else self._clock() - oldest

    def _forget_one(self) -> None:
        for host, state in self._hosts.items():  # the one that was quiet longest is first
            if not state.starts and not state.waiting:
                if state.is_down:
                    self._down.dec()
                del self._hosts[host]
                return
