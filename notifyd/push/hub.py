"""The hub: all connections of this process by user, and what a message costs them.

A message is encoded once per set of content versions, never per connection. What is due to a
connection within one tick of the loop goes out as one WebSocket frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from notifyd.delivery.event import EventSink
from notifyd.errors import InvalidMessage
from notifyd.log import get_logger
from notifyd.message.envelope import Message, public_envelope
from notifyd.message.versions import cast as cast_content
from notifyd.metrics import Metrics
from notifyd.push.connection import Connection, Frame, Note, State
from notifyd.push.cursor import Cursor, encode_cursor, encode_place
from notifyd.push.outbox import FLUSH_SLICE, Outbox
from notifyd.push.protocol import (
    CloseCode,
    Hello,
    Mark,
    encode_drain,
    encode_message,
    encode_pos,
    encode_welcome,
)
from notifyd.push.receipts import Receipts
from notifyd.push.sweep import EXPIRY_LEAD_S, Sweep
from notifyd.settings import Settings

#: Different sets of content versions that are kept once each instead of per connection.
_MAX_INTERNED: Final = 1024
#: What acks under way get at least when the window is over: a few lingers of the event writer.
_ACKS_S: Final = 0.3
#: How long the last bytes of closed connections may take to leave.
_LINGER_S: Final = 0.5

_log = get_logger(component="push")


@dataclass(frozen=True, slots=True)
class PushLimits:
    """What one connection or user may take."""

    max_frame_bytes: int
    max_frames_per_s: float
    max_unsent_bytes: int
    max_connections_per_user: int

    @classmethod
    def of(cls, settings: Settings) -> PushLimits:
        """Read them from the settings."""
        return cls(
            settings.ws_max_frame_bytes,
            settings.ws_max_frames_per_s,
            settings.ws_max_unsent_bytes,
            settings.ws_max_connections_per_user,
        )


class Hub:
    """Connections by user. Used from one event loop; nothing here waits but `drain`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        events: EventSink,
        pod: str,
        *,
        incarnation: str = "",
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = PushLimits.of(settings)
        self.now = now
        self.monotonic = monotonic
        self.incarnation = incarnation
        self.is_draining = False
        self._heartbeat_s = settings.ws_heartbeat_s
        self._metrics = metrics
        self._users: dict[str, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._is_empty: asyncio.Event | None = None
        self._open = 0
        self._interned: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._positions: dict[int, int] = {}
        self._pos: Frame | None = None
        self._outbox = Outbox(events, metrics, pod=pod, now=now, wants_acks=self._wants_acks)
        self._frames_in = {
            op: metrics.frames_in.labels(op=op) for op in ("hello", "ack", "seen", "read", "unknown")
        }
        self._receipts = Receipts(
            events,
            metrics,
            pod=pod,
            oldest_s=settings.topic_retention_s,
            ahead_s=settings.message_max_ahead_s,
            now=now,
        )
        self._sweep = Sweep(
            self,
            heartbeat_s=settings.ws_heartbeat_s,
            hello_timeout_s=settings.ws_hello_timeout_s,
            now=now,
            monotonic=monotonic,
        )

    @property
    def connections(self) -> int:
        """Open push connections, each past its welcome."""
        return self._open

    @property
    def sockets(self) -> int:
        """All sockets, those without a welcome and those that are closing included."""
        return len(self._all)

    @property
    def unconfirmed_acks(self) -> int:
        """Ids of all clients that are not durable yet."""
        return self._receipts.pending

    # Messages

    def publish(self, message: Message, partition: int, offset: int) -> int:
        """Put a message in line for every connection of its recipients; return to how many.

        Never waits. A message that is not for `ws`, has expired or is not due yet goes to nobody.
        """
        is_newer = offset >= self._positions.get(partition, 0)
        self.advance(partition, offset)
        targets = [here for user in message.recipients if (here := self._users.get(user)) is not None]
        if not targets or not self._is_due(message):
            return 0
        if not self._receipts.remember(message):
            self._metrics.invalid.labels(role="ws", reason="id_conflict").inc()
            return 0
        # An older place than we have been at (the reader went back) has no `at`: `at` only rises.
        place = encode_place(partition, offset) if is_newer else None
        note = self._outbox.note(message)
        frames: dict[tuple[str, ...], Frame | None] = {}
        count = 0
        for here in targets:
            for connection in here:
                reads = connection.reads
                if reads not in frames:
                    frames[reads] = self._encode(message, reads, place, note)
                frame = frames[reads]
                if frame is not None and connection.send(frame):
                    count += 1
        return count

    def advance(self, partition: int, offset: int) -> None:
        """Note that everything of a partition up to `offset` has been looked at."""
        if offset >= self._positions.get(partition, 0):
            self._positions[partition] = offset + 1
            self._pos = None

    @property
    def cursor(self) -> str:
        """The place of a client that has got everything so far, encoded."""
        return encode_cursor(Cursor(self.incarnation, self._positions))

    # Connections: from the endpoint

    def accept(self, connection: Connection) -> None:
        """Take a socket that has yet to say hello."""
        self._all.add(connection)
        self._metrics.connections_opened.inc()
        self._sweep.await_hello(connection)

    def join(self, connection: Connection, user: str, expires_at_s: float, hello: Hello) -> None:
        """Open a verified connection and welcome it, or refuse it."""
        if connection.state is not State.VERIFYING:
            return
        if self.is_draining:
            connection.close(CloseCode.GOING_AWAY)
            return
        here = self._users.get(user)
        if here is not None and len(here) >= self.limits.max_connections_per_user:
            limit = self.limits.max_connections_per_user
            connection.close(CloseCode.TOO_MANY_CONNECTIONS, f"a user has at most {limit} connections here")
            return
        connection.open(user, secrets.token_urlsafe(9), hello, expires_at_s)
        if here is None:
            self._users[user] = [connection]
        else:
            here.append(connection)
        self._open += 1
        self._metrics.connections.set(self._open)
        # This process keeps no past: who was here before may have missed something, and is told.
        missing: Literal["inbox"] | None = None if hello.cursor is None else "inbox"
        welcome = encode_welcome(connection.session, self.cursor, self._heartbeat_s, 0, missing)
        connection.send(Frame(welcome))
        self._sweep.add(connection)
        connection.take_early()

    async def drain(self, window_s: float) -> None:
        """Send every client away within `window_s`, spread over it; acks under way are still confirmed."""
        self.is_draining = True
        started = self.monotonic()
        frame = Frame(encode_drain(0, int(window_s * 1000)))
        leaving = list(self._all)
        random.shuffle(leaving)
        _log.info("push_drain", connections=len(leaving), window_s=window_s)
        for index, connection in enumerate(leaving):
            connection.send(frame)
            if index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(0)
        for index, connection in enumerate(leaving):
            if not self._all:
                break
            ahead_s = started + window_s * index / len(leaving) - self.monotonic()
            if ahead_s > 0 or index % FLUSH_SLICE == FLUSH_SLICE - 1:
                await asyncio.sleep(max(0.0, ahead_s))
            if not connection.unconfirmed:
                connection.close(CloseCode.GOING_AWAY)
        await self._receipts.stop(max(_ACKS_S, window_s - (self.monotonic() - started)))
        for connection in list(self._all):
            connection.close(CloseCode.GOING_AWAY)
        if self._all:
            self._is_empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), _LINGER_S)
        self._sweep.stop()
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)
        self._outbox.stop()

    # Connections: from themselves

    def forget(self, connection: Connection, *, is_sudden: bool) -> None:
        """Drop a connection whose socket is gone; `is_sudden`: without a closing handshake."""
        if is_sudden:
            self._metrics.closes.labels(code="1006").inc()
        self._all.discard(connection)
        if self._is_empty is not None and not self._all:
            self._is_empty.set()
        self._sweep.forget(connection)
        self._leave(connection)

    def on_closing(self, connection: Connection, code: int) -> None:
        """Take a connection that began to close off the list of its user."""
        known = code in CloseCode._value2member_map_
        self._metrics.closes.labels(code=str(code) if known else "other").inc()
        self._leave(connection)
        self._sweep.await_close(connection)

    def on_cut(self, connection: Connection) -> None:
        """Count one that did not read."""
        self._metrics.evicted.inc()
        _log.info("push_evicted", user_id=connection.user, unsent_bytes=connection.unsent)

    def mark_dirty(self, connection: Connection) -> None:
        """Have a connection flushed at the end of this tick."""
        self._outbox.add(connection)

    def take_mark(self, connection: Connection, mark: Mark) -> None:
        """Take a client's `ack`, `seen` or `read`."""
        self._receipts.take(connection, mark)

    def count_frame(self, op: str) -> None:
        """Count a frame of a client."""
        self._frames_in[op].inc()

    def intern(self, reads: tuple[str, ...]) -> tuple[str, ...]:
        """Return the one copy of a set of content versions."""
        if len(self._interned) >= _MAX_INTERNED:
            return self._interned.get(reads, reads)
        return self._interned.setdefault(reads, reads)

    # What the sweep asks for

    def beat(self, connection: Connection) -> None:
        """Send a heartbeat that says how far this connection has got."""
        if self._pos is None:
            self._pos = Frame(encode_pos(self.cursor))
        connection.send(self._pos)

    def on_no_hello(self, connection: Connection) -> None:
        """Close one that never said who it is."""
        connection.close(CloseCode.NO_HELLO, "no hello in time")

    def on_expiring(self, connection: Connection) -> None:
        """Ask for another token before the old one ends."""
        left_s = max(0.0, min(EXPIRY_LEAD_S, connection.expires_at_s - self.now()))
        connection.send(Frame(encode_drain(0, int(left_s * 1000))))

    def on_expired(self, connection: Connection) -> None:
        """Close one whose token has ended; it may come back with another."""
        connection.close(CloseCode.TOKEN_EXPIRED)

    # Within

    def _is_due(self, message: Message) -> bool:
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
        return expires_at_ms is None or expires_at_ms > self.now() * 1000

    def _encode(
        self, message: Message, reads: tuple[str, ...], place: str | None, note: Note
    ) -> Frame | None:
        try:
            public = public_envelope(message, cast_content(message.content_raw, reads))
        except InvalidMessage as error:
            self._metrics.invalid.labels(role="ws", reason=error.reason).inc()
            return None
        return Frame(encode_message(public, place), note)

    def _wants_acks(self, user: str) -> bool:
        return any(connection.wants_acks for connection in self._users.get(user, ()))

    def _leave(self, connection: Connection) -> None:
        here = self._users.get(connection.user)
        if here is None or connection not in here:
            return
        # A new list: `publish` may be walking the old one.
        rest = [other for other in here if other is not connection]
        if rest:
            self._users[connection.user] = rest
        else:
            del self._users[connection.user]
        self._open -= 1
        self._metrics.connections.set(self._open)
