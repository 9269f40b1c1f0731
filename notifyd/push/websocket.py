"""WebSocket framing (RFC 6455) for the server's side: a reader without I/O, and frame writers."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import struct
from collections.abc import Iterator
from typing import Final

# The one private name taken from aiohttp: its unmasking in C (0.1 us for 200 bytes, against
# 0.6 us for the best we can do with Python's integers). tests/unit/push/test_websocket.py holds it.
from aiohttp._websocket.helpers import websocket_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

#: Close codes for what a peer did wrong (7.4.1).
PROTOCOL_ERROR: Final = 1002
INVALID_TEXT: Final = 1007
TOO_MANY: Final = 1008
TOO_BIG: Final = 1009

_KNOWN: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_EMPTY: Final = b""
_HEAD_16: Final = struct.Struct("!BBH").pack
_HEAD_64: Final = struct.Struct("!BBQ").pack
_UTF8: Final = codecs.getincrementaldecoder("utf-8")


class ProtocolViolation(Exception):
    """The peer broke RFC 6455, or sends more than we take; `code` is the close code for it (7.4.1)."""

    def __init__(self, detail: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class FrameReader:
    """Turns bytes from a client into messages; holds no more than one message of `max_bytes`.

    After a `ProtocolViolation` the reader must not be used again.
    """

    __slots__ = ("_buffer", "_max_bytes", "_partial", "_reserved", "_utf8", "frames", "max_frames")

    def __init__(self, max_bytes: int, *, extension_bits: int = 0) -> None:
        self._max_bytes = max_bytes
        #: Bits of a frame's first byte that must be 0: those that no extension gave a meaning.
        self._reserved = 0x70 & ~extension_bits
        self._buffer: bytes = _EMPTY
        self._partial: bytearray | None = None
        #: Checks the fragments of a text; None: they are binary.
        self._utf8: codecs.IncrementalDecoder | None = None
        #: Frames read so far, fragments and control frames included.
        self.frames = 0
        #: One more than so many is a violation (close code 1008).
        self.max_frames = 1 << 62

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield `(opcode, payload)` of each message and control frame that is complete now.

        The iterator must be run to its end, or the reader dropped.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = _EMPTY
        at, end = 0, len(data)
        while end - at >= 2:
            head = self._head(data, at, end)
            if head is None:
                break
            start, size = head
            stop = start + size
            if stop > end:
                break
            if self.frames >= self.max_frames:
                raise ProtocolViolation("too many frames", TOO_MANY)
            self.frames += 1
            payload = bytearray(data[start:stop])
            websocket_mask(data[start - 4 : start], payload)
            message = self._frame(data[at], payload)
            at = stop
            if message is not None:
                yield message
        if at < end:
            self._buffer = data[at:] if at else data

    def _head(self, data: bytes, at: int, end: int) -> tuple[int, int] | None:
        """Return where the payload starts and its size; None when the header is not whole yet."""
        _check_head(data[at], data[at + 1], self._reserved)
        is_control = data[at] & 0x08
        size = data[at + 1] & 0x7F
        start = at + 2
        if size == 126:
            if end - start < 2:
                return None
            size = int.from_bytes(data[start : start + 2], "big")
            start += 2
            if size < 126:
                raise ProtocolViolation("a length must use the least bytes (5.2)")
        elif size == 127:
            if end - start < 8:
                return None
            size = int.from_bytes(data[start : start + 8], "big")
            start += 8
            if size < 65536 or size >> 63:
                raise ProtocolViolation("a length must use the least bytes, the first bit 0 (5.2)")
        if not is_control and size + (len(self._partial) if self._partial else 0) > self._max_bytes:
            raise ProtocolViolation(f"a message has at most {self._max_bytes} bytes", TOO_BIG)
        return None if end - start < 4 else (start + 4, size)

    def _frame(self, first: int, payload: bytearray) -> tuple[int, bytes] | None:
        opcode, is_last = first & 0x0F, first & 0x80
        if opcode >= CLOSE:
            return opcode, bytes(payload)
        if opcode == CONTINUATION:
            if self._partial is None:
                raise ProtocolViolation("nothing to continue (5.4)")
            self._check_text(payload, is_last=bool(is_last))
            self._partial += payload
            if not is_last:
                return None
            whole, self._partial = bytes(self._partial), None
            return (BINARY if self._utf8 is None else TEXT), whole
        if self._partial is not None:
            raise ProtocolViolation("a new message inside a fragmented one (5.4)")
        if is_last:
            return opcode, bytes(payload)
        self._utf8 = _UTF8() if opcode == TEXT else None
        self._check_text(payload, is_last=False)
        self._partial = payload
        return None

    def _check_text(self, fragment: bytearray, *, is_last: bool) -> None:
        # A text is refused with the first byte that cannot be UTF-8: the rest may never come (8.1).
        if self._utf8 is not None:
            try:
                self._utf8.decode(fragment, is_last)
            except UnicodeDecodeError:
                raise ProtocolViolation("a text is no UTF-8 (8.1)", INVALID_TEXT) from None


def _check_head(first: int, second: int, reserved: int) -> None:
    opcode = first & 0x0F
    if first & reserved:
        raise ProtocolViolation("reserved bits are set (5.2)")
    if opcode not in _KNOWN:
        raise ProtocolViolation(f"opcode {opcode} is reserved (5.2)")
    if not second & 0x80:
        raise ProtocolViolation("a client's frame must be masked (5.1)")
    if opcode >= CLOSE:
        if second & 0x7F > 125:
            raise ProtocolViolation("a control frame has at most 125 bytes (5.5)")
        if not first & 0x80:
            raise ProtocolViolation("a control frame must not be fragmented (5.5)")


def encode_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Encode one unfragmented, unmasked frame, as a server sends it (5.1, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return _HEAD_16(0x80 | opcode, 126, size) + payload
    return _HEAD_64(0x80 | opcode, 127, size) + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode a close frame; the reason is cut to the 123 bytes that fit, at a character."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return encode_frame(code.to_bytes(2, "big") + text, CLOSE)


def read_close(payload: bytes) -> int | None:
    """Return the code of a peer's close frame, None for none; raises `ProtocolViolation` (5.5.1, 7.4)."""
    if not payload:
        return None
    if len(payload) < 2:
        raise ProtocolViolation("a close frame has no body or a code (5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ProtocolViolation(f"close code {code} must not be sent (7.4)")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("the close reason is no UTF-8 (8.1)", INVALID_TEXT) from None
    return code


def accept_key(key: str) -> str | None:
    """Return `Sec-WebSocket-Accept` for a client's key (4.2.2); None when the key is not 16 bytes."""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(
        hashlib.sha1(key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest()
    ).decode()
