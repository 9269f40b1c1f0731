"""Leaving: all clients of a process that goes away are sent elsewhere, spread over a window."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from notifyd.log import get_logger
from notifyd.push.members import Members
from notifyd.push.outbox import FLUSH_SLICE
from notifyd.push.peer import Frame
from notifyd.push.protocol import CloseCode, encode_drain

#: So much of the time is the clients': they go at moments of their own, and receive until then. Closed from
#: the first moment on, half of them would be cut off and wait for theirs, a third of the window on average.
_THEIRS: Final = 0.75
#: How long the last bytes of closed connections may take to leave.
_LINGER_S: Final = 0.5

_log = get_logger(component="push")


class Leaving:
    """One drain. `left_s` is what is left of its window."""

    def __init__(self, members: Members, *, monotonic: Callable[[], float]) -> None:
        self._members = members
        self._monotonic = monotonic
        self._ends_at = monotonic()

    @property
    def left_s(self) -> float:
        """Seconds until the window ends; below 0 once it has."""
        return self._ends_at - self._monotonic()

    async def send_away(self, window_s: float) -> None:
        """Tell all to go, and late in the window close who stays; not one whose acks are under way."""
        started = self._monotonic()
        self._ends_at = started + window_s
        theirs_s = window_s * _THEIRS
        frame = Frame(encode_drain(0, int(theirs_s * 1000)))
        leaving = list(self._members.sockets)
        random.shuffle(leaving)
        _log.info("push_drain", connections=len(leaving), window_s=theirs_s)
        for index, peer in enumerate(leaving):
            peer.send(frame)
            if index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(0)
        await self._until_empty(theirs_s)
        leaving = [peer for peer in leaving if peer in self._members.sockets]
        for index, peer in enumerate(leaving):
            if not self._members.sockets:
                break
            ahead_s = self._ends_at - (window_s - theirs_s) * (1 - index / len(leaving)) - self._monotonic()
            if ahead_s > 0 or index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(max(0.0, ahead_s))
            if not peer.unconfirmed:
                peer.close(CloseCode.GOING_AWAY)

    async def close_all(self) -> None:
        """Close who is left, and let the last bytes leave."""
        for peer in list(self._members.sockets):
            peer.close(CloseCode.GOING_AWAY)
        await self._until_empty(_LINGER_S)

    async def _until_empty(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._members.until_empty()
