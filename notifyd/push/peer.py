"""What the hub sees of whoever is connected, and the frames that it sends them.

A WebSocket is one kind (`connection`), others have the same methods: nothing in the hub asks which.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from notifyd.push.protocol import CloseCode, Hello, join_frames
from notifyd.push.websocket import encode_frame

if TYPE_CHECKING:
    from notifyd.push.resume import Resume
    from notifyd.push.unacked import Unanswered

#: Objects joined into one WebSocket frame hold no more than this: receivers have limits too
#: (the `websockets` library takes 1 MiB, aiohttp 4 MiB). A message above it goes alone.
JOIN_BYTES: Final = 64 * 1024


class State(Enum):
    """Where a peer stands. It moves down this list and never up."""

    HELLO = "hello"
    VERIFYING = "verifying"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Note(Protocol):
    """What wants to know that a frame was written."""

    def on_written(self, users: Sequence[str]) -> None:
        """It leaves for one more socket of each of these, who may repeat."""


class Frame:
    """What is sent, encoded once and shared by all peers that get it.

    `cursor` is the one that a `welcome` or `pos` gives.
    """

    __slots__ = ("cursor", "note", "payload", "wire")

    def __init__(self, payload: bytes, note: Note | None = None, *, cursor: str | None = None) -> None:
        self.payload = payload
        self.note = note
        self.cursor = cursor
        #: The whole WebSocket frame.
        self.wire = encode_frame(payload)


def join(frames: Sequence[Frame]) -> bytes:
    """Return what is due together as one WebSocket frame."""
    return frames[0].wire if len(frames) == 1 else encode_frame(join_frames([f.payload for f in frames]))


def tell(frames: Sequence[Frame], users: Sequence[str]) -> None:
    """Tell who wants to know that these leave for a socket of each of `users`, who may repeat."""
    for frame in frames:
        if frame.note is not None:
            frame.note.on_written(users)


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """Have a socket end with a reset: a peer that does not read would never see an ordinary end, which
    stands in line behind what it does not read, and the kernel would keep that for a minute.
    """
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Acker(Protocol):
    """Who says of messages that it has them, and waits to hear that this is durable."""

    state: State
    user: str
    #: Names the connection, to its client and to other processes.
    session: str
    #: Ids whose confirmation is on its way.
    unconfirmed: int

    def send(self, frame: Frame) -> bool:
        """Put a frame in line for the end of this tick; False when none is taken any more."""

    def hold(self) -> None:
        """Take nothing more: acks come faster than they can be made durable."""

    def release(self) -> None:
        """Go on after `hold`."""

    def close(self, code: CloseCode, detail: str = "") -> None:
        """Say why, and end."""


class Peer(Acker, Protocol):
    """One that messages are sent to, from `Hub.accept` until it calls `Hub.forget`.

    It calls the hub when it has anything to write (`mark_dirty`), can be written to again (`on_writable`),
    begins to close (`on_closing`), was cut (`on_cut`), and when its socket is gone (`forget`).
    """

    #: The content versions that its client reads.
    reads: tuple[str, ...]
    wants_acks: bool
    #: When it has to end, in seconds since 1970.
    expires_at_s: float
    #: When its token was issued, in seconds since 1970; 0 where it does not say.
    issued_at_s: float
    #: It is its age that ends it, not its token.
    ends_by_age: bool
    #: When the sweep looks at it next, by the loop's clock.
    due_at: float
    #: The hub has it on the list of those to flush.
    is_dirty: bool
    #: What its client missed, until it has that.
    resume: Resume | None
    #: Messages that its client has not acknowledged, by id.
    unacked: dict[str, Unanswered] | None
    #: The hub has it on the list of those with something unacknowledged.
    is_watched: bool

    @property
    def acks_here(self) -> bool:
        """Whether its client's acks come this way: only then is it known what to send again."""

    @property
    def is_paused(self) -> bool:
        """Whether its client has to read before more is written."""

    @property
    def is_answering(self) -> bool:
        """Whether its network acknowledges what it is sent, as far as that can be told (`liveness`)."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for its client to read."""

    def open(self, user: str, session: str, hello: Hello, expires_at_s: float) -> None:
        """Begin the session: frames may be sent from now on."""

    def take_early(self) -> None:
        """Work off what came while the token was being verified, after the welcome."""

    def flush(self) -> None:
        """Write what is in line."""

    def abort(self) -> None:
        """Drop the socket and what is unsent."""
