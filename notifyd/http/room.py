"""How many requests a process works on at a time, and how much of their bodies it holds."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from notifyd.metrics import Metrics
from notifyd.push.requests import Refusal
from notifyd.settings import Settings


class Room:
    """Lets requests in while there is room, and knows when the last one is gone.

    A request holds a `Place` from its head to its answer; bodies count by the bytes that have arrived,
    so that who only announces much takes nothing away from others.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._max_requests = settings.api_max_requests
        self._max_bytes = settings.api_max_held_bytes
        self._metrics = metrics
        self._requests = 0
        self._bytes = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def requests(self) -> int:
        """Requests under way."""
        return self._requests

    def enter(self) -> Place:
        """Take a place; raises `Refusal` (429) when all are taken."""
        if self._requests >= self._max_requests:
            raise _crowded()
        self._requests += 1
        self._empty.clear()
        self._observe()
        return Place(self)

    async def wait_empty(self, limit_s: float) -> None:
        """Return when no request is under way any more, after `limit_s` seconds at the latest."""
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            pass

    def hold(self, count: int) -> None:
        """Count bytes as held; raises `Refusal` (429) when that is too many."""
        if self._bytes + count > self._max_bytes:
            raise _crowded()
        self._bytes += count
        self._observe()

    def leave(self, count: int) -> None:
        """Give back one place and the bytes that it held."""
        self._requests -= 1
        self._bytes -= count
        if self._requests == 0:
            self._empty.set()
        self._observe()

    def _observe(self) -> None:
        self._metrics.api_in_flight.set(self._requests)
        self._metrics.api_held_bytes.set(self._bytes)


class Place:
    """One request's share of the room, for as long as the `with` block runs."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def hold(self, count: int) -> None:
        """Hold `count` bytes more; raises `Refusal` (429)."""
        self._room.hold(count)
        self._held += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.leave(self._held)


def _crowded() -> Refusal:
    detail = "this process has as many requests as it takes; nothing was sent"
    return Refusal(429, "overloaded", detail, headers={"Retry-After": "1"})
