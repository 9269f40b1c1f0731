"""The hub: all connections of this process by user, and what a message costs them.

A message is encoded once per set of content versions, never per connection. What is due to a
connection within one tick of the loop goes out as one WebSocket frame.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from notifyd.delivery.event import EventSink
from notifyd.delivery.signal import SignalSink
from notifyd.log import get_logger
from notifyd.message.envelope import Message
from notifyd.metrics import Metrics
from notifyd.push.admission import Admission, Origin
from notifyd.push.crowd import Crowd
from notifyd.push.cursor import Cursor, encode_cursor, encode_place
from notifyd.push.encoding import Encoder, Frames
from notifyd.push.leaving import Leaving
from notifyd.push.limits import PushLimits
from notifyd.push.members import Members
from notifyd.push.outbox import Exemplar, Outbox
from notifyd.push.past import Past
from notifyd.push.peer import Acker, Frame, Peer, State
from notifyd.push.protocol import CloseCode, Hello, Mark, Missing, encode_drain, encode_pos, encode_welcome
from notifyd.push.receipts import Receipts
from notifyd.push.replay import Replays
from notifyd.push.resume import SKIP
from notifyd.push.signals import ENDED, Signals
from notifyd.push.sweep import EXPIRY_LEAD_S, Sweep
from notifyd.push.unacked import Unacked, Unanswered
from notifyd.push.window import Window
from notifyd.settings import Settings

#: What acks under way get at least when the window is over: a few lingers of the event writer.
_ACKS_S: Final = 0.3

#: The share of its greatest age by which a connection ends earlier or later.
_AGE_JITTER: Final = 0.1
_NOWHERE: Final = Origin()

_log = get_logger(component="push")


class Hub:
    """Connections by user. Used from one event loop; nothing here waits but `drain`.

    `signals` passes on what clients saw and read. `log_end` tells the offset after the last record of a
    partition, as far as it is known; `past` has the messages that are older than the window.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        events: EventSink,
        pod: str,
        *,
        incarnation: str = "",
        log_end: Callable[[int], int] = lambda partition: 0,
        past: Past | None = None,
        signals: SignalSink | None = None,
        exemplar: Exemplar | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = PushLimits.of(settings)
        self.now = now
        self.monotonic = monotonic
        self.incarnation = incarnation
        self.is_draining = False
        self.takes_acks = True
        self._heartbeat_s = settings.ws_heartbeat_s
        self._metrics = metrics
        self._members = Members(metrics)
        self._max_age_s = settings.ws_max_age_s
        self._admission = Admission(self.limits, metrics)
        self._pos: Frame | None = None
        self._cursor: str | None = None
        self._signals = Signals(self._members, metrics)
        self._crowd = Crowd(
            self._members,
            limit=self.limits.max_connections_per_user,
            beat=self.beat,
            monotonic=monotonic,
        )
        self._window = Window(settings.ws_window_bytes, settings.ws_window_s)
        self._encoder = Encoder(metrics, now=now)
        self._unacked = Unacked(self._send_again)
        self._outbox = Outbox(
            events, metrics, pod=pod, now=now, silent=self._members.silent, exemplar=exemplar
        )
        #: What is written at the end of a slice of connections, and how one is put in line for that: taken
        #: per delivery, so without a call in between.
        self.writes: Final = self._outbox.writes
        self.mark_dirty: Final = self._outbox.add
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
            signals=signals,
        )
        self._replays = Replays(
            self._window,
            incarnation=incarnation,
            log_end=log_end,
            max_unsent_bytes=settings.ws_max_unsent_bytes,
            monotonic=monotonic,
            deliver=self._replay,
            is_sound=self._receipts.remember,
            pass_over=self._pass_over,
            welcome=self._welcome_back,
            past=past,
        )
        self._sweep = Sweep(
            self,
            heartbeat_s=settings.ws_heartbeat_s,
            hello_timeout_s=settings.ws_hello_timeout_s,
            now=now,
            monotonic=monotonic,
        )

    @property
    def positions(self) -> Mapping[int, int]:
        """Offset per partition up to which every message has been looked at."""
        return self._window.ends

    @property
    def connections(self) -> int:
        """Open push connections, each past its welcome."""
        return self._members.count

    @property
    def sockets(self) -> int:
        """All sockets, those without a welcome and those that are closing included."""
        return len(self._members.sockets)

    @property
    def unconfirmed_acks(self) -> int:
        """Ids of all clients that are not durable yet."""
        return self._receipts.pending

    # Messages

    def begin(self, partition: int, offset: int) -> None:
        """Read a partition from `offset` on. Where that does not join what was read before, all
        connections are ended: they come again, and learn what they missed.
        """
        at = self._window.ends.get(partition)
        if at == offset:
            return
        self._window.begin(partition, offset)
        self._moved()
        if at is not None:
            _log.warning("push_gap", partition=partition, was_at=at, goes_on_at=offset)
            for connection in list(self._members.sockets):
                connection.close(CloseCode.GOING_AWAY)

    def position(self, partition: int) -> int | None:
        """Return the offset up to which a partition has been looked at; None for an unknown one."""
        return self._window.ends.get(partition)

    def publish(self, message: Message, partition: int, offset: int) -> int:
        """Keep a message, and put it in line for every connection of its recipients; return to how many.

        Never waits. A message that is not for `ws`, has expired or is not due yet goes to nobody.
        """
        is_newer = offset >= self._window.ends.get(partition, 0)
        now_s = self.monotonic()
        if is_newer and self._encoder.may_go(message):
            self._window.add(partition, offset, message, now_s)
            self._moved()
        else:
            self.advance(partition, offset + 1)
        targets, users = self._members.of_all(message.recipients)
        if not targets or not self._encoder.is_due(message):
            return 0
        if not self._receipts.remember(message, (partition, offset)):
            self._metrics.invalid.labels(role="ws", reason="id_conflict").inc()
            return 0
        # An older place than we have been at (the reader went back) has no `at`: `at` only rises.
        place = encode_place(partition, offset) if is_newer else None
        note = self._outbox.note(message, is_one_each=len(targets) == users)
        frames = Frames(self._encoder, message, place, note)
        unacked = Unanswered(message, now_s)
        count = 0
        # The frame of the one before, which mostly reads the same.
        reads: tuple[str, ...] | None = None
        frame: Frame | None = None
        for connection in targets:
            if connection.resume is not None and is_newer:
                frame, reads = self._frame_for(connection, frames, partition, offset), None
            elif connection.reads is not reads:
                reads = connection.reads
                frame = frames.of(reads)
            if frame is not None and connection.send(frame):
                count += 1
                if connection.wants_acks:
                    self._unacked.expect(connection, unacked)
        return count

    def advance(self, partition: int, end: int) -> None:
        """Note that everything of a partition below `end` has been looked at."""
        if end > self._window.ends.get(partition, -1):
            self._window.advance(partition, end)
            self._moved()

    def take_signal(self, key: bytes | None, value: bytes | None) -> None:
        """Tell a user's connections what a record of the signals topic says."""
        self._signals.take(key, value)

    @property
    def cursor(self) -> str:
        """The place of a client that has got everything so far, encoded."""
        if self._cursor is None:
            self._cursor = encode_cursor(Cursor(self.incarnation, self._window.ends))
        return self._cursor

    # Connections: from the endpoint

    def check(self, origin: Origin) -> None:
        """Judge a request before its upgrade; raises `Refusal`."""
        self._admission.check(origin.address, members=self._members.count, is_draining=self.is_draining)

    def accept(self, connection: Peer, origin: Origin = _NOWHERE) -> None:
        """Take a socket that has yet to say hello."""
        self._members.accept(connection)
        self._admission.enter(connection, origin)
        self._sweep.await_hello(connection)

    def join(
        self,
        connection: Peer,
        user: str,
        expires_at_s: float,
        hello: Hello,
        *,
        issued_at_s: float = 0.0,
        may_wait: bool = True,
    ) -> None:
        """Open a verified connection and welcome it, or refuse it; in a crowd it may wait for that."""
        if connection.state is not State.VERIFYING:
            return
        if self.is_draining:
            connection.close(CloseCode.GOING_AWAY)
            return
        if self._signals.is_ended(user, issued_at_s):
            connection.close(CloseCode.UNAUTHORISED, ENDED)
            return
        if self._admission.is_full(self._members.count):
            connection.close(CloseCode.TRY_LATER, "this process has as many connections as it takes")
            return
        if not self._crowd.has_room(user):
            admit = partial(
                self.join, connection, user, expires_at_s, hello, issued_at_s=issued_at_s, may_wait=False
            )
            self._crowd.ask(connection, user, admit, may_wait=may_wait)
            return
        retires_at_s = self._retires_at_s()
        connection.issued_at_s = issued_at_s
        connection.ends_by_age = retires_at_s < expires_at_s
        connection.open(user, secrets.token_urlsafe(9), hello, min(expires_at_s, retires_at_s))
        self._admission.greet(connection)
        self._members.join(connection)
        self._sweep.add(connection)
        if hello.cursor is None:
            self._welcome(connection, None)
        else:
            self._replays.begin(connection, hello)
        connection.take_early()

    async def drain(self, window_s: float) -> None:
        """Send every client away within `window_s`, spread over it; acks under way are still confirmed."""
        self.is_draining = True
        leaving = Leaving(self._members, monotonic=self.monotonic)
        await leaving.send_away(window_s)
        self.takes_acks = False
        await self._receipts.stop(max(_ACKS_S, leaving.left_s))
        await leaving.close_all()
        self._sweep.stop()
        await self._replays.stop()
        for connection in list(self._members.sockets):
            connection.abort()
        await asyncio.sleep(0)
        self._outbox.stop()

    # Connections: from themselves

    def forget(self, connection: Peer, *, is_sudden: bool) -> None:
        """Drop a connection whose socket is gone; `is_sudden`: without a closing handshake."""
        if is_sudden:
            self._metrics.closes.labels(code="1006").inc()
        self._admission.leave(connection)
        self._members.forget(connection)
        self._sweep.forget(connection)

    def on_closing(self, connection: Peer, code: int) -> None:
        """Take a connection that began to close off the list of its user."""
        known = code in CloseCode._value2member_map_
        self._metrics.closes.labels(code=str(code) if known else "other").inc()
        self._admission.greet(connection)
        self._members.leave(connection)
        self._sweep.await_close(connection)

    def on_cut(self, connection: Peer) -> None:
        """Count one that did not read."""
        self._metrics.evicted.inc()
        _log.info("push_evicted", user_id=connection.user, unsent_bytes=connection.unsent)

    def on_writable(self, connection: Peer) -> None:
        """Go on with what its client missed: there is room again."""
        self._replays.on_writable(connection)

    def take_mark(self, connection: Peer, mark: Mark) -> None:
        """Take a client's `ack`, `seen` or `read`."""
        self._unacked.confirm(connection, mark.ids)
        self._receipts.take(connection, mark)

    def take_posted(self, sender: Acker, mark: Mark) -> None:
        """Take an `ack`, `seen` or `read` that came by another request than a connection's own."""
        self.count_frame(mark.op)
        self._receipts.take(sender, mark)

    def withdraw(self, sender: Acker) -> None:
        """Forget what one that waits no longer has said, where that is possible still."""
        self._receipts.withdraw(sender)

    def count_frame(self, op: str) -> None:
        """Count a frame of a client."""
        self._frames_in[op].inc()

    def intern(self, reads: tuple[str, ...]) -> tuple[str, ...]:
        """Return the one copy of a set of content versions."""
        return self._members.intern(reads)

    # What the sweep asks for

    def tick(self) -> None:
        """Look again at who waits: for proof of a place, for acks."""
        self._crowd.run_due()
        self._replays.run_due()
        self._unacked.run_due(self.monotonic())
        self._metrics.window_bytes.set(self._window.bytes)

    def beat(self, connection: Peer) -> None:
        """Send a heartbeat that says how far this connection has got."""
        if connection.resume is not None:
            cursor = self._cursor_of(connection)
            connection.send(Frame(encode_pos(cursor), cursor=cursor))
            return
        if self._pos is None:
            self._pos = Frame(encode_pos(self.cursor), cursor=self.cursor)
        connection.send(self._pos)

    def on_no_hello(self, connection: Peer) -> None:
        """Close one that never said who it is."""
        connection.close(CloseCode.NO_HELLO, "no hello in time")

    def on_expiring(self, connection: Peer) -> None:
        """Tell it to come again, with another token where the old one ends."""
        left_s = max(0.0, min(EXPIRY_LEAD_S, connection.expires_at_s - self.now()))
        connection.send(Frame(encode_drain(0, int(left_s * 1000))))

    def on_expired(self, connection: Peer) -> None:
        """Close one whose token has ended, or which is as old as any may be."""
        connection.close(CloseCode.GOING_AWAY if connection.ends_by_age else CloseCode.TOKEN_EXPIRED)

    # Within

    def _frame_for(self, connection: Peer, frames: Frames, partition: int, offset: int) -> Frame | None:
        """Return what one that came back is sent of a live message, None for nothing."""
        resume = connection.resume
        # Until its welcome it is served from the window, where this message is now.
        if resume is None or not resume.is_welcomed or resume.at_of(partition, offset) is SKIP:
            return None
        return frames.of(connection.reads, has_place=partition not in resume.holes)

    def _retires_at_s(self) -> float:
        """Choose when a connection that begins now is old: not when all that came with it are."""
        if not self._max_age_s:
            return math.inf
        return self.now() + self._max_age_s * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)

    def _moved(self) -> None:
        self._cursor = self._pos = None

    def _cursor_of(self, connection: Peer) -> str:
        """Encode what a connection has got."""
        resume = connection.resume
        if resume is None:
            return self.cursor
        if resume.is_over(self._window.ends):
            connection.resume = None
            return self.cursor
        return encode_cursor(Cursor(self.incarnation, resume.vector(self._window.ends)))

    def _welcome_back(self, connection: Peer, missing: Missing | None) -> None:
        self._metrics.resumes.labels(missing or "nothing").inc()
        self._welcome(connection, missing)

    def _welcome(self, connection: Peer, missing: Missing | None) -> None:
        replayed = connection.resume.replayed if connection.resume is not None else 0
        cursor = self._cursor_of(connection)
        welcome = encode_welcome(connection.session, cursor, self._heartbeat_s, replayed, missing)
        connection.send(Frame(welcome, cursor=cursor))

    def _replay(
        self, connection: Peer, message: Message, at: str | None, place: tuple[int, int] | None
    ) -> bool:
        """Send a message to one that missed it; False where it is not to be had any more."""
        if not self._encoder.is_due(message) or not self._receipts.remember(message, place):
            return False
        frame = self._encoder.encode_again(message, connection.reads, at, self._outbox.note_of_past)
        if frame is None or not connection.send(frame):
            return False
        self._metrics.replayed.inc()
        if connection.wants_acks:
            self._unacked.expect(connection, Unanswered(message, self.monotonic()))
        return True

    def _pass_over(self, connection: Peer, message: Message, newer_id: str) -> None:
        """Note that one that missed a message needs it no more: a newer one has replaced it."""
        if self._encoder.is_due(message):
            self._outbox.on_replaced(message, connection.user, newer_id)

    def _send_again(self, connection: Peer, message: Message) -> bool:
        """Send what was not acknowledged; False where that has no use any more."""
        if not self._encoder.is_due(message):
            return False
        frame = self._encoder.encode(message, connection.reads, None, None, is_resend=True)
        if frame is None or not connection.send(frame):
            return False
        self._metrics.resent.inc()
        return True
