"""One push connection: an asyncio protocol that owns the socket after aiohttp handed it over.

Slotted, without a task, a timer or a queue of its own: time is kept by the hub's sweep, and
what is due goes out once per tick of the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from notifyd.push import websocket
from notifyd.push.liveness import is_answering
from notifyd.push.peer import JOIN_BYTES, Frame, State, join, reset_on_close, tell
from notifyd.push.protocol import (
    ERROR_OF,
    BadFrame,
    ClientFrame,
    CloseCode,
    Hello,
    Mark,
    decode_client,
    encode_error,
)
from notifyd.push.websocket import FrameReader, ProtocolViolation, encode_close, encode_frame

if TYPE_CHECKING:
    from notifyd.push.hub import Hub
    from notifyd.push.resume import Resume
    from notifyd.push.unacked import Unanswered

#: Messages that came right behind a hello whose token is still being verified.
_MAX_EARLY: Final = 16
#: Looked up once: a member of an Enum costs as much as a call.
_OPEN: Final = State.OPEN
_CODE_OF: Final = {
    websocket.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    websocket.INVALID_TEXT: CloseCode.INVALID_TEXT,
    websocket.TOO_MANY: CloseCode.TOO_FAST,
    websocket.TOO_BIG: CloseCode.TOO_LARGE,
}


class Connection(asyncio.Protocol):
    """A client. `greet` is called once with its hello, and answers by `open` or `close`."""

    __slots__ = (
        "_early",
        "_fd",
        "_greet",
        "_hub",
        "_is_held",
        "_is_paused",
        "_line",
        "_line_bytes",
        "_reader",
        "_tokens",
        "_tokens_at",
        "_transport",
        "due_at",
        "ends_by_age",
        "expires_at_s",
        "is_dirty",
        "is_watched",
        "issued_at_s",
        "reads",
        "resume",
        "session",
        "state",
        "unacked",
        "unconfirmed",
        "user",
        "wants_acks",
    )

    acks_here = True

    def __init__(self, hub: Hub, greet: Callable[[Connection, Hello], None]) -> None:
        self._hub = hub
        self._greet: Callable[[Connection, Hello], None] | None = greet
        self._reader: FrameReader | None = FrameReader(hub.limits.max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        #: What is to be written: mostly nothing or one frame, and then without a list around it.
        self._line: Frame | list[Frame] | None = None
        #: Bytes of a list of them.
        self._line_bytes = 0
        #: The number of its socket, for as long as it may be written to without the transport.
        self._fd = -1
        self._early: list[ClientFrame] | None = None
        self._is_paused = False
        self._is_held = False
        self._tokens = 2 * hub.limits.max_frames_per_s
        self._tokens_at = hub.monotonic()
        self.state = State.HELLO
        self.user = ""
        self.session = ""
        self.reads: tuple[str, ...] = ("1",)
        self.wants_acks = True
        self.expires_at_s = float("inf")
        self.issued_at_s = 0.0
        self.ends_by_age = False
        #: When the sweep looks at this connection next, by the loop's clock.
        self.due_at = 0.0
        #: The hub has it on the list of those to flush.
        self.is_dirty = False
        #: Ids whose confirmation is on its way.
        self.unconfirmed = 0
        #: What its client missed, until it has that.
        self.resume: Resume | None = None
        #: Messages that its client has not acknowledged, by id.
        self.unacked: dict[str, Unanswered] | None = None
        #: The hub has it on the list of those with something unacknowledged.
        self.is_watched = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket; the handshake is written already."""
        self._transport = cast("asyncio.Transport", transport)
        # What the kernel does not take at once pauses us: where we are not paused, nothing is on its
        # way in the transport, and the socket may be written to beside it.
        self._transport.set_write_buffer_limits(0)
        raw = transport.get_extra_info("socket")
        if raw is not None and transport.get_extra_info("sslcontext") is None:
            self._fd = raw.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; the hub forgets the connection."""
        is_sudden = self.state is not State.CLOSING
        self.state = State.CLOSED
        # The loop closes the socket after this call: until now its number was this connection's.
        self._fd = -1
        self._transport = None
        self._line = None
        self._early = None
        self._greet = None
        self.resume = None
        self.unacked = None
        self._hub.forget(self, is_sudden=is_sudden)

    def eof_received(self) -> None:
        """Close when the peer has: a half-open WebSocket has no use."""

    def pause_writing(self) -> None:
        """Keep what is due as shared frames instead of copies in the transport."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on with what is due."""
        self._is_paused = False
        if self._line is not None and self.state is State.OPEN and not self.is_dirty:
            self._hub.mark_dirty(self)
        if self.resume is not None:
            self._hub.on_writable(self)

    def data_received(self, data: bytes) -> None:
        """Read what came; a client that breaks a rule is told why and let go."""
        if self.state is State.CLOSED:
            return
        reader = self._reader
        if reader is None:
            # It was told to go: what still comes is dropped, but no flood of it.
            self._tokens -= 1
            if self._allowance() < 0:
                self.abort()
            return
        before = reader.frames
        reader.max_frames = before + self._allowance()
        try:
            for opcode, payload in reader.feed(data):
                self._receive_or_refuse(opcode, payload)
        except ProtocolViolation as error:
            # From here on nobody knows where frames begin; what still comes is not read.
            self._reader = None
            self.close(_CODE_OF[error.code], error.detail)
            # Its answer cannot be read, so it is told at once that nothing more comes (7.1.7).
            if self._transport is not None and self._transport.can_write_eof():
                self._transport.write_eof()
        self._tokens -= reader.frames - before

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
            return 0
        line = self._line
        here = 0 if line is None else len(line.payload) if isinstance(line, Frame) else self._line_bytes
        return here + self._transport.get_write_buffer_size()

    def send(self, frame: Frame) -> bool:
        """Put a frame in line for the end of this tick; False when the connection takes none.

        A connection that has more unsent than the limit is cut: its client does not read. What
        comes now does not count, so that one large message never cuts an idle connection.
        """
        if self.state is not _OPEN:
            return False
        line = self._line
        if line is None and not self._is_paused:
            # Nothing is unsent, then.
            self._line = frame
            if not self.is_dirty:
                self._hub.mark_dirty(self)
            return True
        unsent = self.unsent if self._is_paused or not isinstance(line, list) else self._line_bytes
        if unsent > self._hub.limits.max_unsent_bytes:
            self.cut()
            return False
        if isinstance(line, list):
            line.append(frame)
            self._line_bytes += len(frame.payload)
        elif line is not None:
            self._line = [line, frame]
            self._line_bytes = len(line.payload) + len(frame.payload)
        else:
            self._line = frame
        return True

    def flush(self) -> None:
        """Write what is in line as few WebSocket frames."""
        line = self._line
        if line is None or self._is_paused or self.state is not _OPEN:
            return
        if self._fd < 0:
            self._write_line()
        elif isinstance(line, Frame):
            self._line = None
            self._hub.writes.add((self._fd, line.wire, self, line))
        elif self._line_bytes < JOIN_BYTES:
            self._line = None
            self._hub.writes.add((self._fd, self._hub.writes.join(line), self, line))
        else:
            self._write_line()

    def write(self, wire: bytes) -> None:
        """Write by way of the transport, which keeps what the kernel does not take."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire)

    def open(self, user: str, session: str, hello: Hello, expires_at_s: float) -> None:
        """Begin the session: frames may be sent from now on."""
        self.user = user
        self.session = session
        self.reads = self._hub.intern(tuple(dict.fromkeys(hello.content)))
        self.wants_acks = hello.ack
        self.expires_at_s = expires_at_s
        self.state = State.OPEN

    def take_early(self) -> None:
        """Work off what came while the token was being verified, after the welcome."""
        early, self._early = self._early, None
        try:
            for frame in early or ():
                self._take(frame)
        except BadFrame as error:
            self.close(CloseCode.BAD_FRAME, error.message)
        if self.state is State.OPEN and not self._is_held:
            self._resume_reading()

    def hold(self) -> None:
        """Stop reading: the client's acks come faster than they can be made durable."""
        if not self._is_held and self._transport is not None:
            self._is_held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read on after `hold`."""
        if self._is_held:
            self._is_held = False
            self._resume_reading()

    def close(self, code: CloseCode, detail: str = "") -> None:
        """Say why, and begin the closing handshake; the hub's sweep ends one that takes too long."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self._is_paused = False
        self._write_line()
        if code in ERROR_OF:
            self.write(encode_frame(encode_error(ERROR_OF[code], detail)))
        self._end(code, encode_close(code, ERROR_OF.get(code, "")))
        # The peer's answer is to be read, whatever we held back before.
        self._is_held = False
        self._resume_reading()

    def cut(self) -> None:
        """End at once: the peer does not read, so it would not read why either."""
        if self.state is State.CLOSED or self._transport is None:
            return
        self._hub.on_cut(self)
        reset_on_close(self._transport)
        self.abort()

    def abort(self) -> None:
        """Drop the socket and what is unsent."""
        self.state = State.CLOSED
        self._line = None
        if self._transport is not None:
            self._transport.abort()

    # Within

    def _receive_or_refuse(self, opcode: int, payload: bytes) -> None:
        try:
            self._receive(opcode, payload)
        except ProtocolViolation as error:
            self.close(_CODE_OF[error.code], error.detail)
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_TEXT, "a text is no UTF-8")
        except BadFrame as error:
            self.close(CloseCode.BAD_FRAME, error.message)

    def _receive(self, opcode: int, payload: bytes) -> None:
        if opcode == websocket.CLOSE:
            code = websocket.read_close(payload)
            if self.state is State.CLOSING:
                if self._transport is not None:
                    self._transport.close()
                return
            wire = encode_frame(payload[:2], websocket.CLOSE)
            self._end(CloseCode.NORMAL if code is None else code, wire)
            if self._transport is not None:
                self._transport.close()
        elif self.state in (State.CLOSING, State.CLOSED):
            return
        elif opcode == websocket.PING:
            # An unread pong counts as unsent too: a flood of pings by one that never reads is cut.
            if self.unsent > self._hub.limits.max_unsent_bytes:
                self.cut()
            else:
                self.write(encode_frame(payload, websocket.PONG))
        elif opcode == websocket.TEXT:
            for frame in decode_client(payload.decode()):
                self._take(frame)
        elif opcode == websocket.BINARY:
            raise BadFrame("this protocol has text frames only")

    def _take(self, frame: ClientFrame) -> None:
        if self.state is State.HELLO:
            if isinstance(frame, Hello):
                greet, self._greet = self._greet, None
                self.state = State.VERIFYING
                self._hub.count_frame("hello")
                if greet is not None:
                    greet(self, frame)
            elif isinstance(frame, Mark):
                raise BadFrame("the first frame must be a hello")
        elif self.state is State.VERIFYING:
            if self._early is None:
                self._early = []
                if self._transport is not None:
                    self._transport.pause_reading()
            if len(self._early) >= _MAX_EARLY:
                raise BadFrame("too many frames before the welcome")
            self._early.append(frame)
        elif self.state is State.OPEN:
            if isinstance(frame, Mark):
                self._hub.count_frame(frame.op)
                self._hub.take_mark(self, frame)
            elif isinstance(frame, Hello):
                raise BadFrame("a connection says hello once")
            else:
                self._hub.count_frame("unknown")

    def _allowance(self) -> int:
        """Fill the bucket of tokens up to now; return how many frames may be taken out of it."""
        now, per_s = self._hub.monotonic(), self._hub.limits.max_frames_per_s
        self._tokens = min(2 * per_s, self._tokens + (now - self._tokens_at) * per_s)
        self._tokens_at = now
        return math.floor(self._tokens)

    def _write_line(self) -> None:
        """Write what is in line by way of the transport, as far as it takes it."""
        line = self._line
        if line is None or self.state is not State.OPEN:
            return
        pending = [line] if isinstance(line, Frame) else line
        done = 0
        while done < len(pending) and not self._is_paused:
            group, size = [pending[done]], len(pending[done].payload)
            done += 1
            while done < len(pending) and size + len(pending[done].payload) < JOIN_BYTES:
                size += len(pending[done].payload)
                group.append(pending[done])
                done += 1
            self._line_bytes -= size
            self.write(self._wire_of(group))
            tell(group, (self.user,))
        self._line = pending[done:] or None

    def _wire_of(self, frames: Sequence[Frame]) -> bytes:
        return join(frames)

    def _end(self, code: int, wire: bytes) -> None:
        self.state = State.CLOSING
        self._line = None
        self.write(wire)
        self._hub.on_closing(self, code)

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
