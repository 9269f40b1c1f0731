"""A client's place in the whole topic, opaque to it: an incarnation and one offset per partition."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

_FORMAT: Final = "1"
_MAX_PARTITIONS: Final = 4096

_Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Body = tuple[
    Annotated[str, msgspec.Meta(max_length=128)],
    Annotated[list[_Offset], msgspec.Meta(max_length=_MAX_PARTITIONS)],
]
_decoder = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything below `offsets[partition]` has been seen; a partition without an entry counts as 0.

    `incarnation` names the life of the topic: offsets of another life mean nothing.
    """

    incarnation: str
    offsets: Mapping[int, int] = field(default_factory=dict)


def encode_cursor(cursor: Cursor) -> str:
    """Encode for the wire: a format digit, then base64url of msgpack `[incarnation, [offset, ...]]`."""
    size = max(cursor.offsets, default=-1) + 1
    vector = [cursor.offsets.get(partition, 0) for partition in range(size)]
    body = msgspec.msgpack.encode((cursor.incarnation, vector))
    return _FORMAT + base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode_cursor(text: str) -> Cursor | None:
    """Decode what `encode_cursor` made; None for anything else, which then counts as foreign."""
    if not text.startswith(_FORMAT):
        return None
    try:
        body = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), altchars=b"-_", validate=True)
        incarnation, vector = _decoder.decode(body)
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Cursor(incarnation, {partition: offset for partition, offset in enumerate(vector) if offset})


def encode_place(partition: int, offset: int) -> str:
    """Encode the place of one message, as `at` carries it."""
    return f"{partition}:{offset}"


def decode_place(text: str) -> tuple[int, int] | None:
    """Decode `<partition>:<offset>`; None for anything else."""
    partition, colon, offset = text.partition(":")
    if not colon or not (
        partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()
    ):
        return None
    if len(partition) > 4 or len(offset) > 19:
        return None
    return int(partition), int(offset)
