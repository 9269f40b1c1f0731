"""Lets what comes in a short time go on together, so that it shares a request to the broker."""

from __future__ import annotations

import asyncio


class Tick:
    """Holds each who waits for `every_s` seconds at most, and lets all of them go at once."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next: asyncio.Event | None = None

    async def wait(self) -> None:
        """Return with all others who came since the last time."""
        if self._next is None:
            self._next = asyncio.Event()
            asyncio.get_running_loop().call_later(self._every_s, self._go)
        await self._next.wait()

    def _go(self) -> None:
        event, self._next = self._next, None
        if event is not None:
            event.set()
