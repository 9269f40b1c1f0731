"""Dead letters: which of them are meant, and the record that gives one of them another chance. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from notifyd.stream.dead_letter import SHA256, DeadLetter, foreign_headers
from notifyd.stream.records import OutRecord
from notifyd.stream.resend import ResendOrder, resend_record
from notifyd.stream.topics import Topics
from notifyd.tracing import traceparent_of


class _Named(msgspec.Struct):
    id: str = msgspec.field(name="UUID", default="")
    sender: str = msgspec.field(name="from", default="")


_decoder = msgspec.json.Decoder(_Named)


def names_in(letter: DeadLetter) -> tuple[str | None, str | None]:
    """Return id and sender of the message in a dead letter, None where it cannot be read."""
    try:
        named = _decoder.decode(letter.value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    return named.id or None, named.sender or None


@dataclass(frozen=True, slots=True)
class Selection:
    """What all must be so; None: whatever. Times are those of death, Unix ms, `until_ms` not included."""

    reason: str | None = None
    channel: str | None = None
    user: str | None = None
    sender: str | None = None
    message_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is meant."""
        if self.reason not in (None, letter.reason) or self.user not in (None, letter.user):
            return False
        if self.channel not in (None, letter.channel):
            return False
        if self.since_ms is not None and letter.timestamp_ms < self.since_ms:
            return False
        if self.until_ms is not None and letter.timestamp_ms >= self.until_ms:
            return False
        if self.sender is None and self.message_id is None:
            return True
        message_id, sender = names_in(letter)
        is_it = self.message_id is None or (message_id or "").lower() == self.message_id.lower()
        return is_it and self.sender in (None, sender)


def replay_record(letter: DeadLetter, topics: Topics, run: str) -> OutRecord | str:
    """Build the record that has a dead letter done again, as `run`; a text says why that cannot be.

    What died for one recipient and channel goes to that one alone. A whole record goes back to where it
    was, byte for byte, with its key and its own headers.
    """
    if any(name == SHA256 for name, _ in letter.headers):
        return "only its beginning was kept: it was too large"
    if letter.user is not None and letter.channel is not None:
        message_id, _ = names_in(letter)
        if message_id is None or letter.value is None:
            return "it is no message that names itself"
        first_at_ms = letter.timestamp_ms if letter.first_at_ms is None else letter.first_at_ms
        order = ResendOrder(letter.user, letter.channel, run, first_at_ms, traceparent_of(letter.headers))
        return resend_record(letter.value, message_id.lower().encode(), topics, order)
    topic = origin_of(letter)
    if topic not in (topics.messages, topics.events, topics.resend, *topics.retry.values()):
        return f"it came from {topic or 'nowhere'}, which is no topic of ours"
    return OutRecord(topic, letter.value, key=letter.key, headers=foreign_headers(letter))


def origin_of(letter: DeadLetter) -> str | None:
    """Name the topic that a dead letter was on."""
    parts = letter.position.rsplit("/", 2)
    return parts[0].split("/", 1)[-1] if len(parts) == 3 else None
