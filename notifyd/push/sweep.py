"""The one clock of all connections: heartbeats, hello and closing deadlines, expiring tokens.

A timer per connection costs 134 us at 10,000 connections and stalls of a second when they fall
together. Here each wait is of one length, so a queue in order of arrival is in order of time too,
and one call every quarter second looks at the heads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from notifyd.log import get_logger
from notifyd.push.peer import Peer, State

_TICK_S: Final = 0.25
#: Heartbeats of one turn; the loop does other things between two turns.
_SLICE: Final = 256
#: A clock that is so late was held up: the process stood still, or did something else for too long.
_STALL_S: Final = 1.0
#: A peer has this long to answer our close before the socket is dropped.
CLOSING_S: Final = 2.0
#: So long before its token expires a client is told to come again with another one.
EXPIRY_LEAD_S: Final = 5.0

_log = get_logger(component="push")


class SweepActions(Protocol):
    """What the sweep has done to a connection whose time has come."""

    def tick(self) -> None:
        """Do what is due by the clock, whichever the connection."""

    def beat(self, connection: Peer) -> None:
        """Send a heartbeat."""

    def on_no_hello(self, connection: Peer) -> None:
        """Close one that never said hello."""

    def on_expiring(self, connection: Peer) -> None:
        """Tell it that its token will expire."""

    def on_expired(self, connection: Peer) -> None:
        """Close one whose token has expired."""


class Sweep:
    """Runs from the first connection until `stop`."""

    def __init__(
        self,
        actions: SweepActions,
        *,
        heartbeat_s: float,
        hello_timeout_s: float,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._actions = actions
        self._heartbeat_s = heartbeat_s
        self._hello_timeout_s = hello_timeout_s
        self._now = now
        self._monotonic = monotonic
        self._beats: deque[Peer] = deque()
        self._hellos: deque[tuple[float, Peer]] = deque()
        self._overdue: deque[tuple[float, Peer]] = deque()
        self._closings: deque[tuple[float, Peer]] = deque()
        self._expiring: set[Peer] = set()
        self._told: set[Peer] = set()
        self._timer: asyncio.Handle | None = None
        self._expected_at = 0.0
        self._is_stopped = False

    def await_hello(self, connection: Peer) -> None:
        """Give a new connection its time to say hello."""
        self._hellos.append((self._monotonic() + self._hello_timeout_s, connection))
        self._start()

    def await_close(self, connection: Peer) -> None:
        """Give the peer its time to end the closing handshake."""
        self._closings.append((self._monotonic() + CLOSING_S, connection))
        self._start()

    def add(self, connection: Peer) -> None:
        """Begin the heartbeats of an open connection."""
        connection.due_at = self._monotonic() + self._heartbeat_s
        self._beats.append(connection)
        self._look_at_expiry(connection)
        self._start()

    def forget(self, connection: Peer) -> None:
        """Drop what refers to a closed connection and is not in a queue of time."""
        self._expiring.discard(connection)
        self._told.discard(connection)

    def stop(self) -> None:
        """End heartbeats and deadlines."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def run_due(self) -> bool:
        """Do what is due now, one slice of it; True when more is due at once."""
        at_s = self._monotonic()
        while self._overdue and self._overdue[0][0] <= at_s:
            connection = self._overdue.popleft()[1]
            if connection.state is State.HELLO:
                self._actions.on_no_hello(connection)
        while self._hellos and self._hellos[0][0] <= at_s:
            connection = self._hellos.popleft()[1]
            if connection.state is State.HELLO:
                # In a crowd its hello may be here and not read yet: all that is here now is, within a tick.
                self._overdue.append((at_s + _TICK_S, connection))
        while self._closings and self._closings[0][0] <= at_s:
            connection = self._closings.popleft()[1]
            if connection.state is not State.CLOSED:
                connection.abort()
        if self._expiring:
            self._run_expiring()
        self._actions.tick()
        for _ in range(_SLICE):
            if not self._beats or self._beats[0].due_at > at_s:
                return False
            connection = self._beats.popleft()
            if connection.state is State.OPEN:
                self._actions.beat(connection)
                connection.due_at = at_s + self._heartbeat_s
                self._beats.append(connection)
                self._look_at_expiry(connection)
        return bool(self._beats) and self._beats[0].due_at <= at_s

    def forgive(self, stall_s: float) -> None:
        """Give all who wait to say hello their whole time again: for so long this process did not listen."""
        due_at = self._monotonic() + self._hello_timeout_s
        waiting = [connection for _, connection in (*self._overdue, *self._hellos)]
        self._overdue.clear()
        self._hellos = deque((due_at, connection) for connection in waiting)
        _log.warning("push_stalled", stall_s=round(stall_s, 2), hellos=len(waiting))

    def _look_at_expiry(self, connection: Peer) -> None:
        # Only who may expire before its next turn is watched more closely than that.
        if connection.expires_at_s <= self._now() + 2 * self._heartbeat_s + EXPIRY_LEAD_S:
            self._expiring.add(connection)

    def _run_expiring(self) -> None:
        at_s = self._now()
        for connection in list(self._expiring):
            if connection.state is not State.OPEN:
                self.forget(connection)
            elif connection.expires_at_s <= at_s:
                self.forget(connection)
                self._actions.on_expired(connection)
            elif connection.expires_at_s <= at_s + EXPIRY_LEAD_S and connection not in self._told:
                self._told.add(connection)
                self._actions.on_expiring(connection)

    def _start(self) -> None:
        if self._timer is None and not self._is_stopped:
            self._run_later()

    def _run_later(self) -> None:
        self._expected_at = self._monotonic() + _TICK_S
        self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._run)

    def _run(self) -> None:
        self._timer = None
        late_s = self._monotonic() - self._expected_at
        if late_s > _STALL_S:
            self.forgive(late_s)
        has_more = self.run_due()
        if self._is_stopped:
            return
        if has_more:
            self._expected_at = self._monotonic()
            self._timer = asyncio.get_running_loop().call_soon(self._run)
        elif self._beats or self._hellos or self._overdue or self._closings:
            self._run_later()
