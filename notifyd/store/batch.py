"""The values that `persist` and its two kinds of rows share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

import msgspec

from notifyd.message.envelope import Message

#: From here on the sweep may ask what became of a delivery that nobody spoke of since.
CHECK_AFTER_S: Final = 60.0


class MessageRow(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A valid message, where it was read, and the trace that its producer named (`traceparent`)."""

    message: Message
    partition: int
    offset: int
    traceparent: str | None = None

    @property
    def day(self) -> str:
        """The day of the message (ISO)."""
        return _iso(self.message.day)


@lru_cache(maxsize=1024)
def _iso(day: dt.date) -> str:
    return day.isoformat()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One record of the events topic: the JSON array as it was written."""

    value: bytes | None
    offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that can never be written. `reason`: `id_conflict`, `poison`, `date_out_of_range`, or
    the reason of an `InvalidMessage`; `error` is for people.
    """

    row: MessageRow | EventRecord
    reason: str
    error: str

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.row.offset


#: Awaited before anything is committed; it returns once the refused records are safe elsewhere.
OnRefused = Callable[[Sequence[Refused]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch.

    `written`: its rows and the mark are committed. `replayed`: it was below the mark, all was there.
    `behind`: the mark is before the batch's start, so nothing was written and the caller must read
    again from `mark`. `mark` is where the partition stands; `messages` and `events` are new rows,
    `doubles` messages that were there already, `refused` records handed to `on_refused`.
    """

    status: Literal["written", "replayed", "behind"]
    mark: int
    messages: int = 0
    doubles: int = 0
    events: int = 0
    refused: int = 0

    @property
    def is_gap(self) -> bool:
        """Whether the caller has to seek back to `mark`."""
        return self.status == "behind"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch comes from, in the words of the tables, and who writes it."""

    incarnation: int
    topic: str
    partition: int
    pod: str
    check_after_s: float = CHECK_AFTER_S

    def params(self, **more: object) -> dict[str, object]:
        """Return the parameters that the statements share, and `more`."""
        return {
            "incarnation": self.incarnation,
            "topic": self.topic,
            "partition": self.partition,
            "pod": self.pod,
            "check_after_s": self.check_after_s,
            **more,
        }


@dataclass(slots=True)
class Tally:
    """What one try at a batch did."""

    messages: int = 0
    doubles: int = 0
    deliveries: int = 0
    inbox: int = 0
    events: int = 0
    dropped: int = 0
    refused: list[Refused] = field(default_factory=list)
    #: Deliveries that came to an end: of which channel, after how many milliseconds.
    ended: list[tuple[str, int]] = field(default_factory=list)
    #: The statement that is left to be sent with the COMMIT, and its parameters.
    last: str = ""
    last_params: dict[str, object] = field(default_factory=dict)
