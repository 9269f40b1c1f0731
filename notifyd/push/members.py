"""Who is connected to this process: all sockets, and those past their welcome by user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final

from notifyd.metrics import Metrics
from notifyd.push.peer import Peer

#: Different sets of content versions that are kept once each instead of per connection.
_MAX_INTERNED: Final = 1024


class Members:
    """The peers of one hub. `sockets` holds those without a welcome and those that are closing too."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._users: dict[str, list[Peer]] = {}
        self._interned: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._emptied: asyncio.Event | None = None
        self.sockets: set[Peer] = set()
        #: Users with open peers, none of which acknowledges.
        self.silent: set[str] = set()
        #: Peers past their welcome.
        self.count = 0

    def of(self, user: str) -> list[Peer]:
        """Return the open peers of a user. The list is never changed once returned but by a `join`."""
        return self._users.get(user, _NOBODY)

    def of_all(self, users: Sequence[str]) -> tuple[list[Peer], int]:
        """Return the open peers of all these users, and how many of the users have any."""
        here = list(filter(None, map(self._users.get, users)))
        return list(chain.from_iterable(here)), len(here)

    def accept(self, peer: Peer) -> None:
        """Take a socket that has yet to say who it is."""
        self.sockets.add(peer)
        self._metrics.connections_opened.inc()

    def join(self, peer: Peer) -> None:
        """Put an open peer on the list of its user."""
        here = self._users.get(peer.user)
        if here is None:
            self._users[peer.user] = [peer]
        else:
            here.append(peer)
        self._look_at(peer.user)
        self.count += 1
        self._metrics.connections.set(self.count)

    def leave(self, peer: Peer) -> None:
        """Take a peer off the list of its user, where it is on it."""
        here = self._users.get(peer.user)
        if here is None or peer not in here:
            return
        # A new list: `publish` may be walking the old one.
        rest = [other for other in here if other is not peer]
        if rest:
            self._users[peer.user] = rest
        else:
            del self._users[peer.user]
        self._look_at(peer.user)
        self.count -= 1
        self._metrics.connections.set(self.count)

    def _look_at(self, user: str) -> None:
        here = self._users.get(user)
        if here is None or any(peer.wants_acks for peer in here):
            self.silent.discard(user)
        else:
            self.silent.add(user)

    def forget(self, peer: Peer) -> None:
        """Drop a peer whose socket is gone."""
        self.leave(peer)
        self.sockets.discard(peer)
        if self._emptied is not None and not self.sockets:
            self._emptied.set()

    async def until_empty(self) -> None:
        """Return once no socket is left."""
        if self.sockets:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def intern(self, reads: tuple[str, ...]) -> tuple[str, ...]:
        """Return the one copy of a set of content versions."""
        if len(self._interned) >= _MAX_INTERNED:
            return self._interned.get(reads, reads)
        return self._interned.setdefault(reads, reads)


_NOBODY: Final[list[Peer]] = []
