"""What connected clients have not acknowledged: sent again a while later, a few times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from notifyd.message.envelope import Message
from notifyd.push.peer import Peer, State

#: A message unacknowledged for this long is sent again.
AFTER_S: Final = 30.0
#: So often at most; after that it waits in the inbox, as for an absent user.
TRIES: Final = 3
#: Messages of one connection that are waited for; a client that is further behind has what it needs.
PER_CONNECTION: Final = 32
#: How often a connection with something unacknowledged is looked at. One length of waiting, so that
#: a queue in order of arrival is in order of time.
LOOK_S: Final = 5.0
#: Connections of one look; the rest comes at the next turn of the clock.
_SLICE: Final = 256


class Unanswered(msgspec.Struct, frozen=True, gc=False):
    """A message sent at `sent_at` (monotonic), and `tries` times again; connections share it."""

    message: Message
    sent_at: float
    tries: int = 0


class Unacked:
    """Keeps, per connection that acknowledges, what it was sent lately."""

    def __init__(self, send_again: Callable[[Peer, Message], bool]) -> None:
        self._send_again = send_again
        self._watched: deque[tuple[float, Peer]] = deque()

    def expect(self, connection: Peer, sent: Unanswered) -> None:
        """Wait for a client's ack of a message that it is being sent, where it would come here."""
        if not connection.acks_here:
            return
        waiting = connection.unacked
        if waiting is None:
            waiting = connection.unacked = {}
        elif len(waiting) >= PER_CONNECTION:
            del waiting[next(iter(waiting))]
        waiting[sent.message.id] = sent
        if not connection.is_watched:
            connection.is_watched = True
            self._watched.append((sent.sent_at + LOOK_S, connection))

    def confirm(self, connection: Peer, ids: Sequence[str]) -> None:
        """Wait no longer for these: the client has them, whatever it said of them."""
        waiting = connection.unacked
        if waiting:
            for message_id in ids:
                waiting.pop(message_id.lower(), None)

    def run_due(self, now_s: float) -> None:
        """Send again what is due, to one slice of connections."""
        for _ in range(min(_SLICE, len(self._watched))):
            if self._watched[0][0] > now_s:
                return
            connection = self._watched.popleft()[1]
            connection.is_watched = False
            if connection.state is State.OPEN and connection.unacked:
                self._look(connection, connection.unacked, now_s)
            if connection.unacked:
                connection.is_watched = True
                self._watched.append((now_s + LOOK_S, connection))
            else:
                connection.unacked = None

    def _look(self, connection: Peer, waiting: dict[str, Unanswered], now_s: float) -> None:
        for message_id, sent in list(waiting.items()):
            if now_s - sent.sent_at < AFTER_S:
                continue
            if sent.tries >= TRIES or not self._send_again(connection, sent.message):
                del waiting[message_id]
            else:
                waiting[message_id] = Unanswered(sent.message, now_s, sent.tries + 1)
            if connection.state is not State.OPEN:
                connection.unacked = None
                return
