"""The push protocol `notifyd.v1` as values: frames of both sides, error codes, close codes. Pure.

`docs/reference/push-protocol.md` tells client authors the same in words.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from notifyd.errors import NotifydError

SUBPROTOCOL: Final = "notifyd.v1"

#: Ids in one `ack`, `seen` or `read`; a frame of 16 KiB holds about 420.
MAX_IDS: Final = 500
#: Objects in one JSON array from a client.
MAX_OBJECTS: Final = 100
#: Content versions that a client may say it reads.
MAX_VERSIONS: Final = 8

MarkOp = Literal["ack", "seen", "read"]
#: What a `welcome` says of messages that did not come.
Missing = Literal["later", "inbox"]

#: Stage of the event that a mark becomes.
STAGE_OF: Final[Mapping[str, str]] = {"ack": "acked", "seen": "seen", "read": "read"}


class CloseCode(IntEnum):
    """Why a connection ends. 4400-4499 are final; after all others a client reconnects."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    TOO_FAST = 1008
    INTERNAL = 1011
    TRY_LATER = 1013
    TOKEN_EXPIRED = 4001
    BAD_FRAME = 4400
    UNAUTHORISED = 4401
    ORIGIN_REFUSED = 4403
    NO_HELLO = 4408
    TOO_LARGE = 4413
    TOO_MANY_CONNECTIONS = 4429


#: `code` of the `error` frame before a close; stable words for programs.
ERROR_OF: Final[Mapping[CloseCode, str]] = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.INVALID_TEXT: "invalid_text",
    CloseCode.TOO_FAST: "too_fast",
    CloseCode.INTERNAL: "internal",
    CloseCode.TRY_LATER: "try_later",
    CloseCode.BAD_FRAME: "bad_frame",
    CloseCode.UNAUTHORISED: "unauthorised",
    CloseCode.ORIGIN_REFUSED: "origin_refused",
    CloseCode.NO_HELLO: "no_hello",
    CloseCode.TOO_LARGE: "too_large",
    CloseCode.TOO_MANY_CONNECTIONS: "too_many_connections",
}


class BadFrame(NotifydError):
    """A client's frame breaks the protocol."""

    reason = "bad_frame"


_Version = Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
_Place = Annotated[str, msgspec.Meta(max_length=32)]


class Hello(msgspec.Struct, frozen=True):
    """The first frame of a client."""

    token: str | None = None
    cursor: Annotated[str, msgspec.Meta(max_length=8192)] | None = None
    at: Annotated[tuple[_Place, ...], msgspec.Meta(max_length=1024)] = ()
    content: Annotated[tuple[_Version, ...], msgspec.Meta(min_length=1, max_length=MAX_VERSIONS)] = ("1",)
    ack: bool = True


class _Ids(msgspec.Struct, frozen=True):
    ids: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=MAX_IDS)
    ]


class Mark(msgspec.Struct, frozen=True):
    """`ack`, `seen` or `read`: what a client says of messages."""

    op: MarkOp
    ids: list[str]


class Unknown(msgspec.Struct, frozen=True):
    """An `op` of a later protocol: ignored."""

    op: str


ClientFrame = Hello | Mark | Unknown


class _Op(msgspec.Struct, frozen=True):
    op: str


_encoder = msgspec.json.Encoder()
_op_decoder = msgspec.json.Decoder(_Op)
_list_decoder = msgspec.json.Decoder(
    Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_OBJECTS)]
)
_hello_decoder = msgspec.json.Decoder(Hello)
_ids_decoder = msgspec.json.Decoder(_Ids)


def decode_client(text: str) -> list[ClientFrame]:
    """Decode what a client sent: one object or an array of them, in order. Raises `BadFrame`."""
    try:
        if text.lstrip(" \t\r\n").startswith("["):
            return [_decode_object(raw) for raw in _list_decoder.decode(text)]
        return [_decode_object(text)]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadFrame(f"no frame of this protocol: {error}"[:200]) from None


def _decode_object(source: str | msgspec.Raw) -> ClientFrame:
    op = _op_decoder.decode(source).op
    if op == "hello":
        return _hello_decoder.decode(source)
    if op in STAGE_OF:
        return Mark(cast("MarkOp", op), _ids_decoder.decode(source).ids)
    return Unknown(op)


# Frames of the server. All are JSON objects without a line break, as bytes.


def encode_welcome(
    session: str, cursor: str, heartbeat_s: float, replayed: int, missing: Missing | None
) -> bytes:
    """Encode `welcome`; `heartbeat_s` is what the client may expect between two signs of life."""
    beat = int(heartbeat_s) if float(heartbeat_s).is_integer() else heartbeat_s
    return _encoder.encode(
        {
            "op": "welcome",
            "session": session,
            "cursor": cursor,
            "heartbeat": beat,
            "replayed": replayed,
            "missing": missing,
        }
    )


def encode_message(public: bytes, at: str | None, *, is_resend: bool = False) -> bytes:
    """Wrap a public envelope (JSON bytes) into `msg`; `at` is `<partition>:<offset>`."""
    if is_resend:
        return b'{"op":"msg","resend":true,"message":%b}' % public
    if at is None:
        return b'{"op":"msg","message":%b}' % public
    return b'{"op":"msg","at":"%b","message":%b}' % (at.encode(), public)


def encode_ok(op: MarkOp, ids: Sequence[str], refused: Sequence[str] = ()) -> bytes:
    """Encode `ok`: `ids` are durable, `refused` never will be and need not be sent again."""
    frame: dict[str, Any] = {"op": "ok", op: ids}
    if refused:
        frame["refused"] = refused
    return _encoder.encode(frame)


def encode_state(ids: Sequence[str], changed: str) -> bytes:
    """Encode `state`: another device of the user has `changed` (`seen`, `read`, `archived`) these."""
    return _encoder.encode({"op": "state", "ids": ids, "set": changed})


def encode_pos(cursor: str) -> bytes:
    """Encode `pos`: everything up to this cursor was sent."""
    return _encoder.encode({"op": "pos", "cursor": cursor})


def encode_drain(from_ms: int, to_ms: int) -> bytes:
    """Encode `drain`: reconnect at a random moment of this window."""
    return _encoder.encode({"op": "drain", "after": [from_ms, to_ms]})


def encode_error(code: str, detail: str, *, close: int | None = None) -> bytes:
    """Encode `error`, which goes before a close; `close` is its code, where the close itself has none."""
    frame: dict[str, Any] = {"op": "error", "code": code, "detail": detail}
    if close is not None:
        frame["close"] = close
    return _encoder.encode(frame)


def join_frames(frames: Sequence[bytes]) -> bytes:
    """Join what is due together into one JSON array, in order."""
    return b"[%b]" % b",".join(frames)


def day_of_v7(message_id: uuid.UUID) -> datetime.date | None:
    """Return the UTC day that a version 7 id carries (RFC 9562, 5.7), or None for other ids."""
    if message_id.version != 7:
        return None
    try:
        at = datetime.datetime.fromtimestamp((message_id.int >> 80) / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return at.date()
