"""The port behind which every channel stands."""

from __future__ import annotations

from typing import Protocol

import msgspec

from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Outcome
from notifyd.message.envelope import Message


class Delivery(msgspec.Struct, frozen=True):
    """One attempt at one message x recipient x channel. `attempt` counts from 1 within its `run`."""

    message: Message
    user: str
    channel: str
    run: str
    attempt: int


class Channel(Protocol):
    """A way out. One object per process, used by many tasks at once.

    `send` answers with an outcome for whatever the other side does: it raises only what is a
    fault of our own, and ends by itself within a limit that the channel states.
    """

    name: str

    async def start(self) -> None:
        """Make ready what `send` needs; must not depend on the other side."""

    async def stop(self) -> None:
        """Let go of connections. Calls still under way are cut."""

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Try once to deliver to `contact`."""
