"""Signals read from Kafka: what one device of a user did, told to the others; sessions that are over."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from notifyd.delivery.signal import EndSignal, decode_signal, read_op
from notifyd.errors import InvalidMessage
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.push.members import Members
from notifyd.push.peer import Frame
from notifyd.push.protocol import CloseCode, encode_state

#: Users whose older tokens are refused from now on; the oldest go first.
MAX_ENDED: Final = 10_000
ENDED: Final = "the sessions of this user were ended"

_log = get_logger(component="push")


class Signals:
    """What the signals of all users mean to the peers of one hub."""

    def __init__(self, members: Members, metrics: Metrics) -> None:
        self._members = members
        self._metrics = metrics
        self._ended: OrderedDict[str, float] = OrderedDict()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Work in one record; one that cannot be read is counted and left."""
        try:
            op = read_op(value)
            if op is None:
                return
            user = _user_of(key)
            if op == "state" and not self._members.of(user):
                return  # most users are elsewhere
            signal = decode_signal(value)
        except InvalidMessage as error:
            self._metrics.invalid.labels(role="ws", reason=error.reason).inc()
            return
        if isinstance(signal, EndSignal):
            self._end(user, signal.before / 1000)
            return
        frame = Frame(encode_state(signal.ids, signal.set))
        for peer in self._members.of(user):
            if peer.session != signal.by and peer.send(frame):
                self._metrics.states_sent.inc()

    def is_ended(self, user: str, issued_at_s: float) -> bool:
        """Whether sessions with a token of this time are over, as far as this process has heard."""
        return issued_at_s < self._ended.get(user, float("-inf"))

    def _end(self, user: str, before_s: float) -> None:
        self._ended[user] = max(before_s, self._ended.pop(user, 0.0))
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        over = [peer for peer in self._members.of(user) if peer.issued_at_s < before_s]
        for peer in over:
            peer.close(CloseCode.UNAUTHORISED, ENDED)
        if over:
            _log.info("push_sessions_ended", user_id=user, connections=len(over))


def _user_of(key: bytes | None) -> str:
    try:
        user = (key or b"").decode()
    except UnicodeDecodeError:
        user = ""
    if not user:
        raise InvalidMessage("", "the key of a signal is a user id", reason="bad_signal")
    return user
