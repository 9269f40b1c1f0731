"""What a process gives to each of its roles, and what a role is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from notifyd.message.envelope import Limits
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.dead_letter import DeadLetters
from notifyd.stream.events import EventWriter
from notifyd.stream.producer import Producer
from notifyd.stream.signals import SignalWriter
from notifyd.stream.topics import Topics
from notifyd.tracing import Tracing


async def nobody_to_send_away(limit_s: float) -> None:
    """Do nothing: no public port is served, so nobody keeps a connection to it."""


@dataclass(frozen=True, slots=True)
class RoleContext:
    """Shared by the roles of one process.

    `fail` ends the process with the error given to it; `send_away` gives clients so many seconds to let go of
    their HTTP connections, and closes those that are idle then.
    """

    settings: Settings
    metrics: Metrics
    producer: Producer
    topics: Topics
    incarnation: str
    limits: Limits
    public: web.Application
    fail: Callable[[Exception], None]
    send_away: Callable[[float], Awaitable[None]] = nobody_to_send_away
    #: None where tracing is off.
    tracing: Tracing | None = None

    def events(self, role: str) -> EventWriter:
        """Return a writer of events in the name of `role`."""
        return EventWriter(self.producer, self.topics, self.settings, self.metrics, role=role)

    def signals(self) -> SignalWriter:
        """Return a writer of what users' other devices are to learn."""
        return SignalWriter(self.producer, self.topics, self.settings, self.metrics)

    async def flush(self, *writers: EventWriter | SignalWriter) -> None:
        """Send what these still hold; what the broker does not take in time is given up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.stop_step_s / 2):
                await asyncio.gather(*(writer.stop() for writer in writers))

    def dead_letters(self) -> DeadLetters:
        """Return a writer of dead letters."""
        return DeadLetters(self.producer, self.topics, self.settings, self.metrics, self.incarnation)


class Role(Protocol):
    """One workflow. `start` returns once it works; `stop` once it has drained and left."""

    name: str

    def __init__(self, context: RoleContext) -> None:
        """Make it; nothing runs yet."""

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """Raise `ConfigError` for settings that cannot work, before anything is begun or waited for."""

    async def start(self) -> None:
        """Begin; raises `NotifydError` for what a person has to mend."""

    async def stop(self) -> None:
        """Let what is in flight end, commit, leave."""

    @property
    def waits_for(self) -> list[str]:
        """What is missing before the role is ready."""

    @property
    def polled_at(self) -> float | None:
        """Monotonic time of the last poll."""

    @property
    def running(self) -> list[str]:
        """What is still at work, for the watchdog's last words."""
