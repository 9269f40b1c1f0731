"""What becomes of a message on its way to clients: whether it goes at all, and its frames, made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from notifyd.errors import InvalidMessage
from notifyd.message.envelope import Message, public_envelope
from notifyd.message.versions import cast as cast_content
from notifyd.message.versions import choose_version
from notifyd.metrics import Metrics
from notifyd.push.peer import Frame, Note
from notifyd.push.protocol import encode_message

#: Frames of replayed messages that are kept, so that a storm of reconnects encodes each once.
_CACHE_BYTES: Final = 16 * 1024 * 1024
_FRAME_BYTES: Final = 400


class Encoder:
    """Turns messages into frames for the content versions that clients read."""

    def __init__(self, metrics: Metrics, *, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._cache: OrderedDict[tuple[object, ...], Frame] = OrderedDict()
        self._cached_bytes = 0

    def may_go(self, message: Message) -> bool:
        """Whether a message may be for `ws`; what has no `channels` is, and is read no further."""
        return b'"channels"' not in message.content_raw or self.is_due(message)

    def is_due(self, message: Message) -> bool:
        """Whether a message is to be pushed now: it is for `ws`, its time has come and is not over."""
        try:
            content = message.content
        except InvalidMessage as error:
            self._metrics.invalid.labels(role="ws", reason=error.reason).inc()
            return False
        if "ws" not in content.channels:
            return False
        # Judged by the record's own time, as every role does: the record that releases it is younger.
        if content.not_before_ms is not None and content.not_before_ms > message.timestamp_ms:
            return False
        expires_at_ms = content.expires_at_ms(message.timestamp_ms)
        return expires_at_ms is None or expires_at_ms > self._now() * 1000

    def encode(
        self,
        message: Message,
        reads: tuple[str, ...],
        at: str | None,
        note: Note | None,
        *,
        is_resend: bool = False,
    ) -> Frame | None:
        """Encode a `msg`; None where its content cannot be cast."""
        try:
            # Mostly the client reads what the producer wrote, which needs no look into it for that.
            is_as_read = choose_version(message.content.version, reads) is None
            content = None if is_as_read else cast_content(message.content_raw, reads)
            public = public_envelope(message, content)
        except InvalidMessage as error:
            self._metrics.invalid.labels(role="ws", reason=error.reason).inc()
            return None
        return Frame(encode_message(public, at, is_resend=is_resend), note)

    def encode_again(
        self,
        message: Message,
        reads: tuple[str, ...],
        at: str | None,
        make_note: Callable[[Message], Note],
    ) -> Frame | None:
        """Encode a `msg` of the past, or take the frame that another client got."""
        key = (message.id, message.digest, reads, at)
        frame = self._cache.get(key)
        if frame is not None:
            self._cache.move_to_end(key)
            return frame
        frame = self.encode(message, reads, at, make_note(message))
        if frame is not None:
            self._cache[key] = frame
            self._cached_bytes += _size_of(frame)
            while self._cached_bytes > _CACHE_BYTES:
                self._cached_bytes -= _size_of(self._cache.popitem(last=False)[1])
        return frame


class Frames:
    """The frames of one live message at `place` (none for an older one), each made when first asked for."""

    __slots__ = ("_encoder", "_made", "_message", "_note", "_place")

    def __init__(self, encoder: Encoder, message: Message, place: str | None, note: Note) -> None:
        self._encoder = encoder
        self._message = message
        self._place = place
        self._note = note
        self._made: dict[tuple[tuple[str, ...], bool], Frame | None] = {}

    def of(self, reads: tuple[str, ...], *, has_place: bool = True) -> Frame | None:
        """Return the frame for who reads these versions, with `at` or without; None where the content
        cannot be cast.
        """
        key = reads, has_place
        if key not in self._made:
            at = self._place if has_place else None
            self._made[key] = self._encoder.encode(self._message, reads, at, self._note)
        return self._made[key]


def _size_of(frame: Frame) -> int:
    # Twice: as a payload, and as the frame on the wire where it went alone.
    return _FRAME_BYTES + 2 * len(frame.payload)
