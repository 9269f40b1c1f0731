"""Events: what happened to a delivery, as it travels on the events topic.

An event is one JSON object; a Kafka record holds an array of them. `seen` and `read` are
events too, about the inbox of the user rather than about the delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from notifyd.delivery.pod import is_position

#: Delivery stages in the order that a tie within one attempt is decided by (the later wins).
STAGES: Final = (
    "scheduled",
    "pending",
    "attempting",
    "retry_wait",
    "stored",
    "skipped",
    "expired",
    "failed",
    "dead",
    "sent",
    "acked",
)
#: Stages about the user's inbox: they add, and never take away.
INBOX_STAGES: Final = ("seen", "read")

#: The run of a message's own first fan-out; later runs are time-ordered ids and so compare above it.
FIRST_RUN: Final = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that happened to a message x recipient x channel.

    `id` the message's UUID in lower case; `day` its ISO date (UTC); `digest` the first 16
    bytes of the SHA-256 of its original bytes, in hex; `stage` one of `STAGES` or
    `INBOX_STAGES`; `run` and `attempt` (from 1; 0 where nothing was attempted) order it;
    `at` and `due` milliseconds since 1970; `pod` who says so.
    """

    id: str
    day: str
    digest: str
    user: str
    channel: str
    stage: str
    at: int
    pod: str
    run: str = FIRST_RUN
    attempt: int = 0
    due: int | None = None
    reason: str | None = None
    detail: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Event])


def encode_events(events: Sequence[Event | bytes]) -> bytes:
    """Encode a batch of events as the value of one Kafka record; bytes are what `encode_alike` made."""
    return b"[%b]" % b",".join([one if isinstance(one, bytes) else _encoder.encode(one) for one in events])


def encode_alike(event: Event, users: Sequence[str]) -> bytes:
    """Encode the same event of each of `users`, joined by commas: the inside of a JSON array.

    A twentieth of the cost of an `Event` each. `event.user` does not matter.
    """
    if len(users) == 1:
        return _encoder.encode(msgspec.structs.replace(event, user=users[0]))
    before, after = _encoder.encode(msgspec.structs.replace(event, user="")).split(b'"user":""', 1)
    before, after = before + b'"user":"', b'"' + after
    # A quote within a string is escaped, so this stands between two of them and nowhere else.
    names = _encoder.encode(users)[2:-2].replace(b'","', after + b"," + before)
    return before + names + after


def decode_events(value: bytes) -> list[Event]:
    """Decode the value of one record of the events topic; raises `msgspec.MsgspecError`.

    A record that is the position of a process (`delivery/pod.py`) holds none.
    """
    return [] if is_position(value) else _decoder.decode(value)


class EventSink(Protocol):
    """Where roles put their events. Implemented over Kafka in `notifyd.stream.events`."""

    async def write(self, events: Sequence[Event]) -> None:
        """Return once the broker has acknowledged all of them; raises `TransientError` else."""

    def post_alike(self, event: Event, users: Sequence[str]) -> None:
        """Hand over the same event of each of `users`, which may be lost with the process (`sent` of ws);
        never blocks.
        """
