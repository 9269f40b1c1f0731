"""What is noted of dead letters that something was done with, and by whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Action = Literal["replay", "discard"]
#: Of a dead letter on the DLQ: partition and offset.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Handled:
    """A dead letter by its place on the DLQ. `message_id` where it has one."""

    partition: int
    offset: int
    message_id: str | None
    reason: str


class AuditTrail(Protocol):
    """The audit of one life of the DLQ."""

    async def handled(self, places: Collection[Place]) -> set[Place]:
        """Return those of these that something was done with."""

    async def write(self, letters: Sequence[Handled], *, actor: str, action: Action) -> None:
        """Note that `action` was done with these; returns once that is durable."""
