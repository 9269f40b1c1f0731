"""What a process says of itself: alive, ready, and why not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection
from typing import Final, Protocol

from notifyd.metrics import Metrics

#: A poll loop that is silent for this long is stuck: it polls every second.
POLL_STUCK_AFTER_S = 30.0

#: The event loop's lag is measured so often, and shown as the most of the last minute: a scrape that comes
#: between two stalls would otherwise see none.
_LAG_EVERY_S: Final = 0.25
_LAGS: Final = round(60 / _LAG_EVERY_S)


class Probed(Protocol):
    """A role, as its probes see it."""

    name: str

    @property
    def waits_for(self) -> list[str]:
        """What is still missing before the role is ready; empty when it is."""

    @property
    def polled_at(self) -> float | None:
        """Monotonic time of its last poll; `None` before the first."""


class Health:
    """The state behind `/healthz` and `/readyz`.

    Alive means that the event loop answers and every poll loop polls; neither Kafka's nor
    Postgres's health counts, or an outage of theirs would restart every pod. Ready ends with
    the signal to stop.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._starting: list[str] = ["process"]
        self.roles: list[Probed] = []
        self.is_stopping = False

    def started(self, roles: list[Probed]) -> None:
        """Note that the roles exist; from here on they speak for themselves."""
        self.roles = roles
        self._starting = []

    def waits_for(self) -> list[str]:
        """Name what is missing before the process is ready; empty when it is."""
        return ["stopping"] if self.is_stopping else self.lacks()

    def lacks(self, names: Collection[str] = ()) -> list[str]:
        """Name what the roles, or these of them, cannot do without and do not have, a stop aside."""
        roles = [role for role in self.roles if not names or role.name in names]
        return self._starting + [f"{role.name}: {what}" for role in roles for what in role.waits_for]

    def _observe(self) -> None:
        self._metrics.loop_tasks.set(len(asyncio.all_tasks()))
        for role in self.roles:
            is_ready = not self.is_stopping and not role.waits_for
            self._metrics.ready.labels(role.name).set(1 if is_ready else 0)

    def stuck(self) -> list[str]:
        """Name the roles whose poll loop does not poll."""
        now = time.monotonic()
        return [
            role.name
            for role in self.roles
            if role.polled_at is not None and now - role.polled_at > POLL_STUCK_AFTER_S
        ]

    async def watch_loop(self) -> None:
        """Measure how late the event loop runs, and show each second what is true; ends when cancelled."""
        lags: deque[float] = deque(maxlen=_LAGS)
        while True:
            for _ in range(round(1 / _LAG_EVERY_S)):
                due = time.monotonic() + _LAG_EVERY_S
                await asyncio.sleep(_LAG_EVERY_S)
                lags.append(max(0.0, time.monotonic() - due))
            self._metrics.loop_lag.set(max(lags))
            self._observe()
