"""Keeps one role running as an orchestrator would: what ends is started again, and how it ended is kept."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fixtures.processes import NotifydProcess

_LOOK_S = 0.05
#: Exit code of a process that did not end within the grace time.
_WATCHDOG = 70
#: What ended by itself comes back after this time.
_BACK_S = 1.0


@dataclass(frozen=True, slots=True)
class End:
    """How one life of a process ended. `cause` is "kill", "term", or "" where it ended by itself.

    `took_s` from the signal to the end; `was_up`: it had come so far as to handle signals;
    `was_frozen`: it stood still for a part of its end.
    """

    name: str
    at_s: float
    cause: str
    code: int
    took_s: float
    was_up: bool
    was_frozen: bool
    last_words: str

    @property
    def is_good(self) -> bool:
        """A kill ends anything; SIGTERM ends in order, or at once what does not handle it yet."""
        if self.cause == "kill":
            return True
        if self.cause == "term":
            early = self.code == -signal.SIGTERM and not self.was_up
            # Frozen for longer than it may take to end: that its watchdog sees it is right.
            late = self.code == _WATCHDOG and self.was_frozen
            return self.code == 0 or early or late
        return False


class Keeper:
    """One process. `now` gives the seconds of the storm's clock."""

    def __init__(self, process: NotifydProcess, now: Callable[[], float]) -> None:
        self.process = process
        self.ends: list[End] = []
        self.starts = 0
        self._now = now
        self._cause = ""
        self._signalled_at = 0.0
        self._was_frozen = False
        self._back_s = _BACK_S
        self._is_wanted = True
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The name of the process."""
        return self.process.name

    def start(self) -> None:
        """Start it, and keep it running from now on."""
        self._begin()
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    def kill(self, back_s: float) -> bool:
        """Kill -9; False when it is not running now."""
        return self._end_by("kill", signal.SIGKILL, back_s)

    def term(self, back_s: float) -> bool:
        """SIGTERM; False when it is not running now."""
        return self._end_by("term", signal.SIGTERM, back_s)

    def _end_by(self, cause: str, number: signal.Signals, back_s: float) -> bool:
        if not self.process.is_running:
            return False
        if not self._cause or cause == "kill":
            self._cause, self._signalled_at = cause, time.monotonic()
        self._back_s = back_s
        self.process.signal(number)
        return True

    async def freeze(self, lasts_s: float) -> bool:
        """SIGSTOP, and SIGCONT after `lasts_s`; False when it is not running now."""
        frozen = self.process.process
        if not self.process.is_running or frozen is None:
            return False
        self._was_frozen = self._cause == "term"
        frozen.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            frozen.send_signal(signal.SIGCONT)
        return True

    async def stop(self) -> End | None:
        """End it in order, for good; returns how it ended."""
        self._is_wanted = False
        self._end_by("term", signal.SIGTERM, 0.0)
        if self._task is not None:
            await self._task
        return self.ends[-1] if self.ends else None

    def _begin(self) -> None:
        self.starts += 1
        self._cause, self._back_s, self._was_frozen = "", _BACK_S, False
        self.process.start()

    async def _keep(self) -> None:
        while True:
            while self.process.is_running:  # noqa: ASYNC110 - Popen tells by asking
                await asyncio.sleep(_LOOK_S)
            self.ends.append(self._told())
            if not self._is_wanted:
                return
            await asyncio.sleep(self._back_s)
            if not self._is_wanted:
                return
            self._begin()

    def _told(self) -> End:
        code = self.process.returncode
        assert code is not None
        took_s = time.monotonic() - self._signalled_at if self._cause else 0.0
        is_odd = self._cause != "kill" and code != 0
        was_up = bool(self.process.log_entries("listening"))
        words = self.process.tail(15) if is_odd or not self._cause else ""
        return End(self.name, self._now(), self._cause, code, took_s, was_up, self._was_frozen, words)
