"""The envelope: bytes of a Kafka record in, a `Message` or the reason why not out.

One decode per message per process; `content` stays raw until someone asks for it. The original
bytes stay with the message: they are what is stored, retried, resent and dead-lettered.
"""

from __future__ import annotations

import datetime as dt
import hashlib

import msgspec

from notifyd.errors import InvalidMessage
from notifyd.message.content import Content, read_content
from notifyd.message.faults import inspect
from notifyd.message.ids import is_time_ordered, is_uuid, new_id, time_of
from notifyd.message.limits import Limits
from notifyd.message.text import is_object, is_sound
from notifyd.message.times import DAY_MS, Time, date_of, to_ms

__all__ = ["Limits", "Message", "decode", "find_faults", "new_id", "public_envelope", "public_of"]


class _Wire(msgspec.Struct, frozen=True, gc=False):
    sender: str = msgspec.field(name="from")
    id: str = msgspec.field(name="UUID")
    content: msgspec.Raw
    recipients: list[str] = msgspec.field(name="toUserIds")
    created_by: str = msgspec.field(name="createBy")
    created_at: Time = msgspec.field(name="createDateTime")


_wire_decoder = msgspec.json.Decoder(_Wire)
_encoder = msgspec.json.Encoder()
_BACKSLASH = ord("\\")
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Message(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One valid envelope, as every role sees it. Made by `decode`.

    `id` the UUID in lower case; `sender` is `from`; `recipients` the user ids in order without
    doubles; `created_at_ms` Unix milliseconds; `day` the UTC day that its row belongs to: the
    time within a version 7 id (`is_time_ordered`), else `createDateTime`; `raw` the value as the
    producer wrote it; `timestamp_ms` of its Kafka record.
    """

    id: str
    sender: str
    recipients: tuple[str, ...]
    created_by: str
    created_at_ms: int
    day: dt.date
    is_time_ordered: bool
    raw: bytes
    timestamp_ms: int
    _content_raw: msgspec.Raw
    _limits: Limits
    _is_exempt: bool
    _content: Content | None = None
    _digest: str = ""

    @property
    def content_raw(self) -> bytes:
        """`content` as it stands in `raw`."""
        return bytes(self._content_raw)

    @property
    def content(self) -> Content:
        """What notifyd reads of `content`, read at the first call.

        Raises `InvalidMessage` (reason `bad_content`) at each call where it is faulty.
        """
        if self._content is not None:
            return self._content
        content = read_content(
            self._content_raw,
            timestamp_ms=self.timestamp_ms,
            limits=self._limits,
            is_exempt=self._is_exempt,
        )
        if isinstance(content, list):
            raise content[0]
        msgspec.structs.force_setattr(self, "_content", content)
        return content

    @property
    def digest(self) -> str:
        """The first 16 bytes of the SHA-256 of `raw`, in hex: same id, same digest, a double."""
        if not self._digest:
            digest = hashlib.sha256(self.raw).digest()[:16].hex()
            msgspec.structs.force_setattr(self, "_digest", digest)
        return self._digest

    def __repr__(self) -> str:
        # Nothing of the content: it may hold addresses and secrets, and reprs end up in logs.
        return f"<Message {self.id} from {self.sender!r} to {len(self.recipients)}>"


def decode(value: bytes | None, *, timestamp_ms: int, limits: Limits, is_exempt: bool = False) -> Message:
    """Decode and judge an envelope, but for what is within its `content`.

    `timestamp_ms` is that of the Kafka record: limits of time are judged against it, so that
    every role agrees whenever it looks. `is_exempt` leaves them out (retries, resends, releases).
    Raises `InvalidMessage`, and nothing else, whatever the bytes.
    """
    message = _decode_quickly(value, timestamp_ms, limits, is_exempt) if value else None
    if message is not None:
        return message
    parts, faults, content = inspect(value, timestamp_ms=timestamp_ms, limits=limits, is_exempt=is_exempt)
    if value and parts is not None and content is not None:
        return Message(*parts, value, timestamp_ms, content, limits, is_exempt)
    raise faults[0]


def find_faults(
    value: bytes | None, *, timestamp_ms: int, limits: Limits, is_exempt: bool = False
) -> list[InvalidMessage]:
    """Find every fault of an envelope, those within `content` included.

    Empty exactly where `decode(...).content` raises nothing.
    """
    _, faults, content = inspect(value, timestamp_ms=timestamp_ms, limits=limits, is_exempt=is_exempt)
    if content is None:
        return faults
    within = read_content(content, timestamp_ms=timestamp_ms, limits=limits, is_exempt=is_exempt)
    return faults + within if isinstance(within, list) else faults


def public_envelope(message: Message, content_raw: bytes | None = None) -> bytes:
    """Encode what a client may see: no `toUserIds`, no `content.contacts`; one line of JSON.

    `content_raw` is the content cast to a version that the client reads (`versions.cast`), by
    default as it is. The id is in lower case, all else is as the producer wrote it.
    """
    return public_of(message.raw, message.id, content_raw)


def public_of(raw: bytes, message_id: str, content_raw: bytes | None = None) -> bytes:
    """Encode as `public_envelope` does what is known to be an envelope, with its canonical id."""
    fields = _fields_decoder.decode(raw)
    content = bytes(fields["content"]) if content_raw is None else content_raw
    parts: msgspec.Raw | dict[str, msgspec.Raw] = msgspec.Raw(content)
    # Mostly there is none: without a backslash no name means `contacts` but one that reads so.
    if _BACKSLASH in content or b'"contacts"' in content:
        parts = _fields_decoder.decode(content)
        parts.pop("contacts", None)
    fields.pop("toUserIds", None)
    public = {**fields, "UUID": message_id, "content": parts}
    # Raw parts keep their white space; a line break outside of a string may be any other.
    return _encoder.encode(public).replace(b"\n", b" ").replace(b"\r", b" ")


def _decode_quickly(value: bytes, timestamp_ms: int, limits: Limits, is_exempt: bool) -> Message | None:
    """Decode the common form of an envelope; None where it is faulty or of a rarer form."""
    if len(value) > limits.max_bytes:
        return None
    try:
        wire = _wire_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    users = wire.recipients
    if (
        not is_sound(value)
        or is_uuid(wire.id) is None
        or not is_object(wire.content)
        or not 0 < len(users) <= limits.max_recipients
        or "" in users
        or max(map(len, users)) > limits.max_user_id_chars
    ):
        return None
    message_id = wire.id.lower()
    created_at_ms = to_ms(wire.created_at)
    is_v7 = is_time_ordered(message_id)
    day_number = (time_of(message_id) if is_v7 else created_at_ms) // DAY_MS
    day = date_of(day_number)
    first_day, last_day = limits.days_around(timestamp_ms)
    is_timely = first_day <= day_number <= last_day and created_at_ms // DAY_MS <= last_day
    if day is None or not (is_timely or is_exempt):
        return None
    recipients = tuple(dict.fromkeys(users))
    return Message(
        message_id,
        wire.sender,
        recipients,
        wire.created_by,
        created_at_ms,
        day,
        is_v7,
        value,
        timestamp_ms,
        wire.content,
        limits,
        is_exempt,
    )
