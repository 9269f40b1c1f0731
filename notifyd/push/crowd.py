"""Users with as many connections as they may have: the dead ones are counted out before one is refused.

A device on a bad network leaves a dead connection behind each time that it comes back, for as long
as the kernel takes to find out. To refuse it then would be for good (4429 is final), and wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from notifyd.log import get_logger
from notifyd.push.liveness import SILENT_AFTER_S
from notifyd.push.members import Members
from notifyd.push.peer import Peer, State
from notifyd.push.protocol import CloseCode

#: From the question to all connections of a user until those that gave no answer are known.
ANSWER_S: Final = SILENT_AFTER_S + 0.5
#: Newcomers of one user that wait for that; another is refused at once.
MAX_WAITING: Final = 4

_log = get_logger(component="push")


@dataclass(frozen=True, slots=True)
class _Newcomer:
    peer: Peer
    user: str
    admit: Callable[[], None]
    until: float


class Crowd:
    """Makes room for newcomers, where there is any. `beat` sends something that is to be acknowledged."""

    def __init__(
        self,
        members: Members,
        *,
        limit: int,
        beat: Callable[[Peer], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._members = members
        self._limit = limit
        self._beat = beat
        self._monotonic = monotonic
        self._waiting: list[_Newcomer] = []

    def has_room(self, user: str) -> bool:
        """Whether a user may have one more; drops the oldest connection that is known to be dead."""
        here = self._members.of(user)
        if len(here) < self._limit:
            return True
        for peer in here:
            if not peer.is_answering:
                _log.info("push_dead_counted_out", user_id=user, session=peer.session)
                self._members.leave(peer)
                peer.abort()
                return True
        return False

    def ask(self, peer: Peer, user: str, admit: Callable[[], None], *, may_wait: bool) -> None:
        """Find out who of a user is there; then call `admit`, or refuse the newcomer.

        One that may not wait is refused at once, and finds room when it comes again.
        """
        waiting = sum(newcomer.user == user for newcomer in self._waiting)
        if not waiting:
            for other in self._members.of(user):
                self._beat(other)
        if may_wait and waiting < MAX_WAITING:
            self._waiting.append(_Newcomer(peer, user, admit, self._monotonic() + ANSWER_S))
        else:
            self._refuse(peer)

    def run_due(self) -> None:
        """Let in who has room by now, and refuse who has waited in vain."""
        waiting, self._waiting = self._waiting, []
        for newcomer in waiting:
            if newcomer.peer.state is not State.VERIFYING:
                continue
            if self.has_room(newcomer.user):
                newcomer.admit()
            elif newcomer.until <= self._monotonic():
                self._refuse(newcomer.peer)
            else:
                self._waiting.append(newcomer)

    def _refuse(self, peer: Peer) -> None:
        detail = f"a user has at most {self._limit} connections here"
        peer.close(CloseCode.TOO_MANY_CONNECTIONS, detail)
