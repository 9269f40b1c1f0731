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
        """Tell all to go, and close each at a moment of its own; one whose acks are under way stays."""
        started = self._monotonic()
        self._ends_at = started + window_s
        frame = Frame(encode_drain(0, int(window_s * 1000)))
        leaving = list(self._members.sockets)
        random.shuffle(leaving)
        _log.info("push_drain", connections=len(leaving), window_s=window_s)
        for index, peer in enumerate(leaving):
            peer.send(frame)
            if index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(0)
        for index, peer in enumerate(leaving):
            if not self._members.sockets:
                break
            ahead_s = started + window_s * index / len(leaving) - self._monotonic()
            if ahead_s > 0 or index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(max(0.0, ahead_s))
            if not peer.unconfirmed:
                peer.close(CloseCode.GOING_AWAY)

    async def close_all(self) -> None:
        """Close who is left, and let the last bytes leave."""
        for peer in list(self._members.sockets):
            peer.close(CloseCode.GOING_AWAY)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._members.until_empty(), _LINGER_S)
