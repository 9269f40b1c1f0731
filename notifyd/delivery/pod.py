"""What a `ws` process says of itself, so that an absent user and a lost process can be told apart."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class PodPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far one life (`boot`) of a `ws` process has come.

    Per partition of the input topic: it speaks for offsets from `start` on, and below `done` every event
    of its is acknowledged by the broker. `at` ms since 1970; it counts as alive for `lasts_s` after that.
    """

    boot: str
    pod: str
    incarnation: str
    start: Mapping[int, int]
    done: Mapping[int, int]
    connections: int
    at: int
    lasts_s: float


class _Record(msgspec.Struct, frozen=True):
    """The value of its record: an object, where a batch of events is an array."""

    position: PodPosition


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Record)


def encode_position(position: PodPosition) -> bytes:
    """Encode it as the value of a record of the events topic."""
    return _encoder.encode(_Record(position))


def is_position(value: bytes) -> bool:
    """Whether a record of the events topic is one of these rather than a batch of events."""
    return value[:1] == b"{"


def decode_position(value: bytes) -> PodPosition:
    """Decode such a record; raises `msgspec.MsgspecError`."""
    return _decoder.decode(value).position
