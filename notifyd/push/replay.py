"""Replays: what clients missed, sent from the window a slice at a time, before they are welcomed.

Nothing is copied for a client that catches up: the window holds what is live too, so a replay
goes on until it has met the present, and the client is welcomed in that same moment. It is held
up by its own client's reading, and shares each turn of the loop with all others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from notifyd.message.envelope import Message
from notifyd.push.past import Past, PastMessage, PastReader
from notifyd.push.peer import JOIN_BYTES, Peer, State
from notifyd.push.protocol import Hello, Missing
from notifyd.push.replaced import Newest
from notifyd.push.resume import SKIP, Resume, read_place
from notifyd.push.window import Window

#: Messages of one connection at a time, and of one turn of the loop over all connections.
_SLICE: Final = 64
_TURN: Final = 256
#: More than this is read from the inbox: a replay is for what was missed, not for a history.
MAX_REPLAYED: Final = 10_000
#: A process that is behind others has heard of what a client got there within this time; a place
#: that it does not know of by then is of another topic.
PROOF_S: Final = 2.0
#: When all replays wait for their clients to read.
_PAUSE_S: Final = 0.01

#: Of a message: its partition and offset, None for one that was stored.
Place = tuple[int, int] | None
#: Sends a message with its `at`.
Deliver = Callable[[Peer, Message, str | None, Place], bool]


class Replays:
    """The connections of one hub that catch up.

    `deliver` sends a message with its `at` to a connection; `is_sound` says whether one is what its id stands
    for; `pass_over` learns which is left out, since a newer one (its id) has replaced it; `welcome` ends the
    replay of one. `past` has what is older than the window, where there is such a thing.
    """

    def __init__(
        self,
        window: Window,
        *,
        incarnation: str,
        log_end: Callable[[int], int],
        max_unsent_bytes: int,
        monotonic: Callable[[], float],
        deliver: Deliver,
        is_sound: Callable[[Message, Place], bool],
        pass_over: Callable[[Peer, Message, str], None],
        welcome: Callable[[Peer, Missing | None], None],
        past: Past | None = None,
    ) -> None:
        self._window = window
        self._incarnation = incarnation
        self._log_end = log_end
        self._monotonic = monotonic
        self._deliver = deliver
        self._is_sound = is_sound
        self._pass_over = pass_over
        self._welcome = welcome
        # Above 64 KiB asyncio tells when there is room again.
        self._unsent_bytes = min(JOIN_BYTES, max_unsent_bytes)
        self._past: PastReader | None = None
        if past is not None:
            self._past = PastReader(
                past,
                max_replayed=MAX_REPLAYED,
                unsent_bytes=self._unsent_bytes,
                monotonic=monotonic,
                deliver=self._deliver_past,
                done=self._on_past,
            )
        self._queue: deque[Peer] = deque()
        self._unproven: list[Peer] = []
        self._handle: asyncio.Handle | None = None

    def begin(self, connection: Peer, hello: Hello) -> None:
        """Bring an open connection up to date, then welcome it; perhaps at once."""
        assert hello.cursor is not None
        place = read_place(hello.cursor, hello.at, self._incarnation)
        if place is None:
            self._give_up(connection)
            return
        connection.resume = Resume(place, self._monotonic() + PROOF_S)
        self._judge(connection, connection.resume)

    def on_writable(self, connection: Peer) -> None:
        """Go on with one whose client has read again."""
        resume = connection.resume
        if resume is not None and not resume.is_welcomed and not resume.is_unproven:
            self._enqueue(connection, resume)

    def run_due(self) -> None:
        """Look again at those who wait: for proof of their place, for what is not in the window."""
        if self._past is not None:
            self._past.run_due()
        if self._unproven:
            waiting, self._unproven = self._unproven, []
            for connection in waiting:
                if connection.state is State.OPEN and connection.resume is not None:
                    self._judge(connection, connection.resume)

    async def stop(self) -> None:
        """End all replays."""
        if self._past is not None:
            await self._past.stop()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._queue.clear()
        self._unproven.clear()

    def run(self) -> None:
        """Send one turn's share."""
        self._handle = None
        left, is_moving = _TURN, False
        for _ in range(len(self._queue)):
            if left <= 0:
                break
            connection = self._queue.popleft()
            resume = connection.resume
            if resume is None:
                continue
            resume.is_queued = False
            if connection.state is not State.OPEN or resume.is_welcomed:
                continue
            count = self._pull(connection, resume, min(_SLICE, left))
            left -= count
            is_moving = is_moving or count > 0
        self._schedule(0.0 if is_moving else _PAUSE_S)

    # Within

    def _judge(self, connection: Peer, resume: Resume) -> None:
        window = self._window
        if not resume.judge(window.floors, window.ends, self._log_end):
            if self._monotonic() < resume.give_up_at:
                resume.is_unproven = True
                self._unproven.append(connection)
            else:
                self._give_up(connection)
            return
        resume.is_unproven = False
        number = window.first_number(connection.user, resume.place)
        if number is None:
            self._finish(connection, resume)
        else:
            resume.number = number
            self._enqueue(connection, resume)

    def _pull(self, connection: Peer, resume: Resume, limit: int) -> int:
        """Send the next messages of one connection; return the work done, 0 while it has to wait."""
        if self._has_to_wait(connection, resume):
            return 0
        if not self._window.holds(resume.number):
            # It was slower than the window moves: what has gone meanwhile is a hole like any other.
            self._judge(connection, resume)
            return 1
        done, number = 0, resume.number
        for entry in self._window.read(connection.user, number, limit):
            if connection.unsent > self._unsent_bytes:
                break
            done, number = done + 1, entry.number + 1
            at = resume.at_of(entry.partition, entry.offset)
            if at is SKIP:
                continue
            if self._send(connection, entry.message, at, (entry.partition, entry.offset)):
                resume.replayed += 1
            resume.passed(entry.partition, entry.offset)
        if connection.state is not State.OPEN:
            return done
        following = self._window.next_number(connection.user, number)
        resume.number = number
        if self._has_to_wait(connection, resume):
            pass  # a welcome, too: behind what its client has not read it could be one frame too many
        elif following is None:
            self._finish(connection, resume)
        elif resume.replayed >= MAX_REPLAYED:
            connection.resume = None
            self._welcome(connection, "inbox")
        else:
            resume.number = following
            self._enqueue(connection, resume)
        return done

    def _has_to_wait(self, connection: Peer, resume: Resume) -> bool:
        """Whether a client has to read before it is sent more; it comes back then."""
        if connection.unsent <= self._unsent_bytes:
            return False
        if not connection.is_paused:  # one that is comes back by `on_writable`
            self._enqueue(connection, resume)
        return True

    def _send(self, connection: Peer, message: Message, at: str | None, place: Place) -> bool:
        """Send a message, unless a newer one that this client has, or is going to get, has replaced it."""
        resume = connection.resume
        assert resume is not None
        if resume.newest is None:
            resume.newest = Newest(self._window, connection.user)
        newer = resume.newest.after(message)
        if newer is not None and self._is_sound(newer.message, (newer.partition, newer.offset)):
            self._pass_over(connection, message, newer.message.id)
            return False
        return self._deliver(connection, message, at, place)

    def _deliver_past(self, connection: Peer, one: PastMessage) -> bool:
        """Send what was stored; it says itself whether it was replaced by what is stored."""
        if one.replaced_by is None:
            return self._send(connection, one.message, None, None)
        self._pass_over(connection, one.message, one.replaced_by)
        return False

    def _finish(self, connection: Peer, resume: Resume) -> None:
        """Welcome one that has caught up with the window."""
        missing: Missing | None = None
        if resume.is_lost or (resume.holes and self._past is None):
            missing, resume.holes = "inbox", {}
        elif resume.holes:
            missing, resume.todo = "later", dict(resume.holes)
        resume.is_welcomed = True
        self._welcome(connection, missing)
        resume.replayed = 0
        if missing == "later" and self._past is not None:
            self._past.begin(connection)
        elif resume.is_over(self._window.ends):
            connection.resume = None

    def _on_past(self, connection: Peer, resume: Resume, missing: Missing | None) -> None:
        """Welcome one again, whose holes are filled or never will be."""
        resume.holes, resume.todo = {}, {}
        self._welcome(connection, missing)
        if resume.is_over(self._window.ends):
            connection.resume = None

    def _give_up(self, connection: Peer) -> None:
        """Have the client read its inbox, once it has what is in the window: that may not be stored yet."""
        connection.resume = Resume(dict(self._window.floors), self._monotonic(), is_lost=True)
        self._judge(connection, connection.resume)

    def _enqueue(self, connection: Peer, resume: Resume) -> None:
        if not resume.is_queued:
            resume.is_queued = True
            self._queue.append(connection)
            self._schedule(0.0)

    def _schedule(self, delay_s: float) -> None:
        if self._handle is None and self._queue:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(delay_s, self.run) if delay_s else loop.call_soon(self.run)
