"""What the roles that read from Kafka have in common: an engine, and how it is seen from outside."""

from __future__ import annotations

from notifyd.roles.context import RoleContext
from notifyd.settings import Settings
from notifyd.stream.engine import EngineApp, EngineOptions


def group_of(settings: Settings, name: str) -> str:
    """Name a consumer group: `notifyd-deliver` with the default topic prefix `notifyd.`."""
    return f"{settings.topic_prefix.rstrip('.-_') or 'notifyd'}-{name}"


class StreamingRole:
    """A role around one engine. Subclasses make the engine in `__init__` and extend `start` and `stop`."""

    name: str

    def __init__(self, context: RoleContext, options: EngineOptions) -> None:
        self.context = context
        self.app = EngineApp(options)

    async def start(self) -> None:
        """Join the group and begin to read."""
        await self.app.start()

    async def stop(self) -> None:
        """Drain, commit, leave."""
        await self.app.stop()

    @property
    def waits_for(self) -> list[str]:
        """What is missing before the role is ready. An empty assignment counts as one.

        Not so a rebalance: every member would be not ready at once, and could do nothing about it.
        """
        return [] if self.app.has_settled else ["consumer group"]

    @property
    def polled_at(self) -> float | None:
        """Monotonic time of the last poll; `None` before the first assignment."""
        return self.app.polled_at

    @property
    def running(self) -> list[str]:
        """Names of the records and batches at work."""
        return self.app.running
