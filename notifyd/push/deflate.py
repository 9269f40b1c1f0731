"""permessage-deflate (RFC 7692) that keeps nothing between two messages.

Neither side takes its context over, so a connection costs no memory for it, and what goes out is
packed once for all that get the same bytes. What comes in unpacks to no more than a message may have.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from aiohttp.http_websocket import ws_ext_parse

from notifyd.push.connection import Connection
from notifyd.push.peer import JOIN_BYTES, Frame, State, join
from notifyd.push.websocket import (
    CLOSE,
    CONTINUATION,
    TEXT,
    TOO_BIG,
    FrameReader,
    ProtocolViolation,
    encode_frame,
)

#: The bit that says: this message is packed (6).
_RSV1: Final = 0x40
#: What a sender leaves out of the end, and a receiver puts back (7.2.1, 7.2.2).
_TAIL: Final = b"\x00\x00\xff\xff"
#: A stored block that ends nothing, as after a block that was marked as the last (7.2.3.5).
_AFTER_FINAL: Final = (_TAIL, b"\x00" + _TAIL)
#: Less than this gets no smaller.
_LEAST_BYTES: Final = 128
#: One message has little to find: the highest level saves one byte in a hundred more.
_LEVEL: Final = 1
#: Packed texts that are kept for others who get the same; each is below 64 KiB or one message.
_KEPT: Final = 16


def choose_window_bits(offered: str) -> int:
    """Return the window (9 to 15 bits) for the first offer that we can accept, 0 for none.

    `offered` is the value of the request's `Sec-WebSocket-Extensions`.
    """
    bits, _ = ws_ext_parse(offered, isserver=True)
    return bits


def accept_extension(offered: str, bits: int) -> str:
    """Return the response's `Sec-WebSocket-Extensions` (7.1)."""
    parts = ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"]
    if "server_max_window_bits" in offered:
        parts.append(f"server_max_window_bits={bits}")
    return "; ".join(parts)


@lru_cache(maxsize=_KEPT)
def deflate(wire: bytes, bits: int) -> bytes:
    """Return a server's unfragmented text frame as one that is packed; itself where that saves nothing."""
    if len(wire) < _LEAST_BYTES or wire[0] != 0x80 | TEXT:
        return wire
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits)
    payload = packer.compress(wire[_head_size(wire) :]) + packer.flush(zlib.Z_SYNC_FLUSH)
    packed = encode_frame(payload.removesuffix(_TAIL), TEXT | _RSV1)
    return packed if len(packed) < len(wire) else wire


def inflate(payload: bytes | bytearray, max_bytes: int) -> bytes:
    """Unpack a message. Raises `ProtocolViolation` for more than `max_bytes`, before there is more."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(payload + _TAIL, max_bytes + 1)
    except zlib.error:
        raise ProtocolViolation("a message is not what deflate makes (RFC 7692, 7.2.2)") from None
    if len(unpacked) > max_bytes:
        raise ProtocolViolation(f"a message has at most {max_bytes} bytes", TOO_BIG)
    if unpacker.eof and unpacker.unused_data not in _AFTER_FINAL:
        raise ProtocolViolation("something follows the last block of a message (RFC 7692, 7.2.3.5)")
    return unpacked


class InflatingReader(FrameReader):
    """Takes packed messages too; holds one that is packed and then one that is not, both bounded."""

    __slots__ = ("_packed_as",)

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, extension_bits=_RSV1)
        #: The opcode of a packed message of which more is to come.
        self._packed_as: int | None = None

    def _frame(self, first: int, payload: bytearray) -> tuple[int, bytes] | None:
        opcode = first & 0x0F
        if not first & _RSV1:
            message = super()._frame(first, payload)
            if message is None or opcode != CONTINUATION or self._packed_as is None:
                return message
            packed_as, self._packed_as = self._packed_as, None
            return packed_as, inflate(message[1], self._max_bytes)
        if opcode == CONTINUATION or opcode >= CLOSE:
            raise ProtocolViolation("only the first frame of a message says that it is packed (RFC 7692, 6)")
        if self._partial is not None:
            raise ProtocolViolation("a new message inside a fragmented one (5.4)")
        if first & 0x80:
            return opcode, inflate(payload, self._max_bytes)
        # Whether a text is UTF-8 is seen when it is whole.
        self._packed_as, self._utf8, self._partial = opcode, None, payload
        return None


class DeflatingConnection(Connection):
    """A client that asked for packed messages, and is sent them."""

    __slots__ = ("_bits",)

    _bits: int

    def pack(self, bits: int) -> None:
        """Pack from now on; to be called before the first byte."""
        self._bits = bits
        self._reader = InflatingReader(self._hub.limits.max_frame_bytes)

    def flush(self) -> None:
        """Write what is in line as few WebSocket frames."""
        line = self._line
        if line is None or self.is_paused or self.state is not State.OPEN:
            return
        if self._fd < 0 or (isinstance(line, list) and self._line_bytes >= JOIN_BYTES):
            self._write_line()
            return
        self._line = None
        wire = line.wire if isinstance(line, Frame) else self._hub.writes.join(line)
        self._hub.writes.add((self._fd, deflate(wire, self._bits), self, line))

    def _wire_of(self, frames: Sequence[Frame]) -> bytes:
        return deflate(join(frames), self._bits)


def _head_size(wire: bytes) -> int:
    size = wire[1]
    return 2 if size < 126 else 4 if size == 126 else 10
