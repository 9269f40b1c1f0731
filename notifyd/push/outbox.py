"""The outbox: what is due leaves at the end of a tick, a slice of connections at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Final

import msgspec

from notifyd.delivery.event import Event, EventSink
from notifyd.delivery.state import NO_ACKS
from notifyd.message.envelope import Message
from notifyd.metrics import Metrics
from notifyd.push.peer import Peer
from notifyd.push.writes import Writes

#: Connections written to before the loop does other things: 256 x 9 us.
FLUSH_SLICE: Final = 256
#: Reason of what is not sent to a user who missed it, since a newer one of its `collapseKey` is.
REPLACED: Final = "replaced"
#: From a message's id to the labels of its exemplar, if it has any.
Exemplar = Callable[[str], dict[str, str] | None]
_NOBODY: Final[Set[str]] = frozenset()


class Sending:
    """One message on its way to sockets: `sent` once per user, however many devices.

    `is_one_each`: it goes to one socket of each user, so there is nothing to remember of that.
    """

    __slots__ = ("_done", "_is_measured", "_outbox", "message")

    def __init__(self, outbox: Outbox, message: Message, *, is_live: bool, is_one_each: bool) -> None:
        self._outbox = outbox
        # How long a message of the past took says nothing of how quick this process is.
        self._is_measured = is_live
        self._done: set[str] | None = None if is_one_each else set()
        self.message = message

    def on_written(self, users: Sequence[str]) -> None:
        """Count the frames, and note those users for whom this is the first."""
        self._outbox.pushed += len(users)
        done = self._done
        if done is not None:
            users = [user for user in dict.fromkeys(users) if user not in done]
            done.update(users)
        if users:
            self._outbox.on_sent(self.message, users, self._is_measured)
            self._is_measured = False


class Outbox:
    """Connections with something to write, and the `sent` events of what was written.

    `silent` are the users none of whose connections acknowledges, at any time. `exemplar` says by a
    message's id which trace to note beside its latency.
    """

    def __init__(
        self,
        events: EventSink,
        metrics: Metrics,
        *,
        pod: str,
        now: Callable[[], float],
        silent: set[str],
        exemplar: Exemplar | None = None,
    ) -> None:
        self._events = events
        self._metrics = metrics
        self._pod = pod
        self._now = now
        self._silent = silent
        self._exemplar = exemplar
        self._looked_at: Sequence[str] = ()
        self._found_silent: Set[str] = _NOBODY
        self._dirty: deque[Peer] = deque()
        self._handle: asyncio.Handle | None = None
        self._sent: list[tuple[Event, Sequence[str]]] = []
        #: What is written at the end of a slice.
        self.writes = Writes()
        #: Messages written and not yet counted in the metrics.
        self.pushed = 0

    def note(self, message: Message, *, is_one_each: bool) -> Sending:
        """Make the note that the frames of a live message carry; `is_one_each` as in `Sending`."""
        return Sending(self, message, is_live=True, is_one_each=is_one_each)

    def note_of_past(self, message: Message) -> Sending:
        """Make the note that the frames of a replayed message carry."""
        return Sending(self, message, is_live=False, is_one_each=False)

    def add(self, connection: Peer) -> None:
        """Have a connection flushed at the end of this tick."""
        connection.is_dirty = True
        self._dirty.append(connection)
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is due, one slice of connections; the rest in the next turn of the loop."""
        self._handle = None
        dirty = self._dirty
        for _ in range(min(FLUSH_SLICE, len(dirty))):
            connection = dirty.popleft()
            connection.is_dirty = False
            connection.flush()
        self.writes.write_all()
        if dirty and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self.flush)
        self._post()

    def stop(self) -> None:
        """Hand over the last events; what is still in line is not written."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._dirty.clear()
        self._post()

    def on_sent(self, message: Message, users: Sequence[str], is_measured: bool) -> None:
        """Note that users have a message on one socket; the events go with this tick's others."""
        at_s = self._now()
        if is_measured:
            exemplar = self._exemplar(message.id) if self._exemplar is not None else None
            self._metrics.ingest_to_push.observe(max(0.0, at_s - message.timestamp_ms / 1000), exemplar)
        silent = self._silent_of(users)
        event = Event(
            id=message.id,
            day=message.day.isoformat(),
            digest=message.digest,
            user="",
            channel="ws",
            stage="sent",
            attempt=1,
            at=int(at_s * 1000),
            pod=self._pod,
        )
        if not silent:
            self._sent.append((event, users))
            return
        if len(silent) < len(users):
            self._sent.append((event, [user for user in users if user not in silent]))
            users = list(silent)
        # Without acks `sent` is the end: whoever judges the delivery must know.
        self._sent.append((msgspec.structs.replace(event, detail=NO_ACKS), users))

    def on_replaced(self, message: Message, user: str, newer_id: str) -> None:
        """Note that a user who missed a message was not sent it: the newer one stands for it."""
        event = Event(
            id=message.id,
            day=message.day.isoformat(),
            digest=message.digest,
            user="",
            channel="ws",
            stage="skipped",
            # As that of `sent` and `acked`, which beat it; it beats what was never sent.
            attempt=1,
            at=int(self._now() * 1000),
            pod=self._pod,
            reason=REPLACED,
            detail=newer_id,
        )
        self._events.post_alike(event, [user])

    def _silent_of(self, users: Sequence[str]) -> Set[str]:
        if not self._silent:
            return _NOBODY
        # What left together comes with the very same users, once per message.
        if users is not self._looked_at:
            self._looked_at, self._found_silent = users, self._silent.intersection(users)
        return self._found_silent

    def _post(self) -> None:
        self._looked_at, self._found_silent = (), _NOBODY
        if self.pushed:
            self._metrics.pushed.inc(self.pushed)
            self.pushed = 0
        if self._sent:
            sent, self._sent = self._sent, []
            for event, users in sent:
                self._events.post_alike(event, users)
