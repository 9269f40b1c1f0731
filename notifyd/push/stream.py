"""One stream of server-sent events: a peer of the hub that only ever writes.

It has the socket after aiohttp read the request, like a WebSocket, and like it no task, timer or
queue of its own. What the client has to say comes by other requests (`acks`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from notifyd.push.liveness import is_answering
from notifyd.push.peer import JOIN_BYTES, Frame, State, reset_on_close, tell
from notifyd.push.protocol import ERROR_OF, CloseCode, Hello, encode_error

if TYPE_CHECKING:
    from notifyd.push.hub import Hub
    from notifyd.push.resume import Resume
    from notifyd.push.unacked import Unanswered


def encode_event(frame: Frame) -> bytes:
    """Encode a frame as an event of the HTML standard (9.2.6): its JSON has no line break.

    Only what names a cursor has an `id`: that is what a browser comes back with.
    """
    if frame.cursor is None:
        return b"data: %b\n\n" % frame.payload
    return b"id: %b\ndata: %b\n\n" % (frame.cursor.encode(), frame.payload)


class EventStream(asyncio.Protocol):
    """A client that reads. Refused by the hub before it has its socket, it says why in `refusal`."""

    __slots__ = (
        "_fd",
        "_hub",
        "_is_paused",
        "_pending",
        "_transport",
        "_unflushed",
        "due_at",
        "ends_by_age",
        "expires_at_s",
        "is_dirty",
        "is_watched",
        "issued_at_s",
        "reads",
        "refusal",
        "resume",
        "session",
        "state",
        "unacked",
        "unconfirmed",
        "user",
        "wants_acks",
    )

    #: Acks go to any process by `POST /v1/ack`, so this one does not know what is unacknowledged.
    acks_here = False

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._transport: asyncio.Transport | None = None
        self._pending: list[Frame] = []
        self._unflushed = 0
        #: The number of its socket, for as long as it may be written to without the transport.
        self._fd = -1
        self._is_paused = False
        self.state = State.VERIFYING
        self.user = ""
        self.session = ""
        self.reads: tuple[str, ...] = ("1",)
        self.wants_acks = True
        self.expires_at_s = float("inf")
        self.issued_at_s = 0.0
        self.ends_by_age = False
        self.due_at = 0.0
        self.is_dirty = False
        self.unconfirmed = 0
        self.resume: Resume | None = None
        self.unacked: dict[str, Unanswered] | None = None
        self.is_watched = False
        #: Why the hub did not take it: a close code, and words for people.
        self.refusal: tuple[CloseCode, str] | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket; the head of the answer is written already."""
        self._transport = cast("asyncio.Transport", transport)
        # As in `Connection`: where we are not paused, nothing is on its way in the transport.
        self._transport.set_write_buffer_limits(0)
        raw = transport.get_extra_info("socket")
        if raw is not None and transport.get_extra_info("sslcontext") is None:
            self._fd = raw.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; the hub forgets the stream."""
        is_sudden = self.state is not State.CLOSING
        self.state = State.CLOSED
        self._fd = -1
        self._transport = None
        self._pending = []
        self._unflushed = 0
        self.resume = None
        self.unacked = None
        self._hub.forget(self, is_sudden=is_sudden)

    def eof_received(self) -> None:
        """End when the client has: that is how one leaves."""
        if self.state is State.OPEN:
            self._end(CloseCode.NORMAL)

    def data_received(self, data: bytes) -> None:
        """Cut a client that sends anything behind its request: nothing of it could be answered."""
        self.abort()

    def pause_writing(self) -> None:
        """Keep what is due as shared frames instead of copies in the transport."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on with what is due."""
        self._is_paused = False
        if self._pending and self.state is State.OPEN and not self.is_dirty:
            self._hub.mark_dirty(self)
        if self.resume is not None:
            self._hub.on_writable(self)

    # What the hub calls

    @property
    def is_paused(self) -> bool:
        """Whether its client has to read before more is written."""
        return self._is_paused

    @property
    def is_answering(self) -> bool:
        """Whether its network acknowledges what it is sent."""
        return is_answering(self._transport)

    @property
    def unsent(self) -> int:
        """Bytes that wait here and in the transport."""
        if self._transport is None:
            return self._unflushed
        return self._unflushed + self._transport.get_write_buffer_size()

    def open(self, user: str, session: str, hello: Hello, expires_at_s: float) -> None:
        """Begin the session: frames may be sent from now on."""
        self.user = user
        self.session = session
        self.reads = self._hub.intern(tuple(dict.fromkeys(hello.content)))
        self.wants_acks = hello.ack
        self.expires_at_s = expires_at_s
        self.state = State.OPEN

    def take_early(self) -> None:
        """Do nothing: no frames come this way."""

    def hold(self) -> None:
        """Do nothing: no acks come this way."""

    def release(self) -> None:
        """Do nothing, as `hold`."""

    def send(self, frame: Frame) -> bool:
        """Put a frame in line for the end of this tick; False when the stream takes none.

        One that has more unsent than the limit is cut, by the rule of `Connection.send`.
        """
        if self.state is not State.OPEN:
            return False
        has_unsent = bool(self._pending) or self._is_paused
        if has_unsent and self.unsent > self._hub.limits.max_unsent_bytes:
            self.cut()
            return False
        self._pending.append(frame)
        self._unflushed += len(frame.payload)
        if not self.is_dirty and not self._is_paused:
            self._hub.mark_dirty(self)
        return True

    def flush(self) -> None:
        """Write what is in line at once."""
        pending = self._pending
        if not pending or self._is_paused or self.state is not State.OPEN:
            return
        if self._fd < 0 or self._unflushed >= JOIN_BYTES:
            self._write_line()
            return
        self._pending, self._unflushed = [], 0
        wire = encode_event(pending[0]) if len(pending) == 1 else b"".join(map(encode_event, pending))
        self._hub.writes.add((self._fd, wire, self, pending[0] if len(pending) == 1 else pending))

    def write(self, wire: bytes) -> None:
        """Write by way of the transport, which keeps what the kernel does not take."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire)

    def close(self, code: CloseCode, detail: str = "") -> None:
        """Say why where there is something to say, and end; without a socket yet, only note why."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        if self._transport is None:
            self.refusal = (code, detail)
        self._is_paused = False
        self._write_line()
        if code in ERROR_OF:
            self.write(encode_event(Frame(encode_error(ERROR_OF[code], detail, close=code))))
        self._end(code)
        if self._transport is not None:
            # What is written still leaves; the hub's sweep ends one whose client does not read it.
            self._transport.close()

    def cut(self) -> None:
        """End at once: the client does not read, so it would not read why either."""
        if self.state is State.CLOSED or self._transport is None:
            return
        self._hub.on_cut(self)
        reset_on_close(self._transport)
        self.abort()

    def abort(self) -> None:
        """Drop the socket and what is unsent."""
        self.state = State.CLOSED
        self._pending = []
        self._unflushed = 0
        if self._transport is not None:
            self._transport.abort()

    # Within

    def _write_line(self) -> None:
        """Write what is in line by way of the transport, as far as it takes it."""
        pending, done = self._pending, 0
        while done < len(pending) and not self._is_paused and self.state is State.OPEN:
            group: list[Frame] = []
            size = 0
            while done < len(pending) and (not group or size + len(pending[done].payload) < JOIN_BYTES):
                size += len(pending[done].payload)
                group.append(pending[done])
                done += 1
            self._unflushed -= size
            self.write(b"".join(map(encode_event, group)))
            tell(group, (self.user,))
        self._pending = pending[done:]

    def _end(self, code: CloseCode) -> None:
        self.state = State.CLOSING
        self._pending = []
        self._unflushed = 0
        self._hub.on_closing(self, code)
