"""Signals: what a user's connections must learn at once, as it travels on the signals topic.

The key of a record is the user id, its value one JSON object with an `op` and the version `v` of its
form. Fields and ops that a reader does not know are ignored, and so is a `v` above its own: a later
form that older readers would misunderstand. Signals are live: who was away learns from the inbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Protocol, get_args

import msgspec

from notifyd.errors import InvalidMessage

#: The version of the form that is written, and the highest that is read.
VERSION: Final = 1
#: Ids of one signal; a record then has 20 KB.
MAX_IDS: Final = 500

#: What can be said of messages.
Changed = Literal["seen", "read", "archived"]
CHANGES: Final[tuple[Changed, ...]] = get_args(Changed)


class StateSignal(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="state"):
    """Messages changed on one device; `by` names its session, which knows already ("" for none)."""

    ids: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=MAX_IDS)
    ]
    set: Changed
    by: Annotated[str, msgspec.Meta(max_length=128)] = ""
    v: int = VERSION


class EndSignal(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="end"):
    """Sessions begun with a token issued before `before` (milliseconds since 1970) are over."""

    before: Annotated[int, msgspec.Meta(ge=0)]
    v: int = VERSION


Signal = StateSignal | EndSignal


class SignalSink(Protocol):
    """Where what devices say is passed on. Implemented over Kafka in `notifyd.stream.signals`."""

    def post(self, user: str, changed: Changed, ids: Sequence[str], by: str) -> None:
        """Hand over ids that the session `by` changed; may be lost with the process, never blocks."""


class _Head(msgspec.Struct, frozen=True):
    op: str
    v: int = VERSION


_encoder = msgspec.json.Encoder()
_head_decoder = msgspec.json.Decoder(_Head)
_decoder: Final[msgspec.json.Decoder[Signal]] = msgspec.json.Decoder(Signal)


def encode_signal(signal: Signal) -> bytes:
    """Encode the value of one record."""
    return _encoder.encode(signal)


def read_op(value: bytes | None) -> Literal["state", "end"] | None:
    """Tell what a signal is about without reading it whole; None for one to be ignored.

    Raises `InvalidMessage` (reason `bad_signal`).
    """
    try:
        head = _head_decoder.decode(value or b"")
    except (msgspec.MsgspecError, ValueError) as error:
        raise _bad(error) from None
    if head.v <= VERSION:
        if head.op == "state":
            return "state"
        if head.op == "end":
            return "end"
    return None


def decode_signal(value: bytes | None) -> Signal:
    """Decode a signal whose op is known; raises `InvalidMessage` (reason `bad_signal`)."""
    try:
        return _decoder.decode(value or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _bad(error) from None


def _bad(error: Exception) -> InvalidMessage:
    return InvalidMessage("", f"no signal: {error}"[:200], reason="bad_signal")
