"""Who is let in: places of the process and of an address, and strangers, who have none yet.

Who is past the welcome has a place that nobody takes. Who has yet to say hello is a stranger: there
may be many in a rush, but the one that has waited longest goes when room is needed. An honest client
says hello within a round trip, so an attacker who only holds sockets pushes out its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from notifyd import descriptors
from notifyd.metrics import Metrics
from notifyd.push.addresses import Proxies
from notifyd.push.limits import PushLimits
from notifyd.push.peer import Peer
from notifyd.push.requests import Refusal, try_later

#: Strangers at once, whatever descriptors there are: they take memory too.
_MAX_STRANGERS: Final = 16_384
_AGAIN_S: Final = "10"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a socket comes from. `is_scarce`: hardly any more descriptors can be had."""

    address: str = ""
    is_scarce: bool = False


class Admission:
    """Counts sockets from `enter` to `leave`, by address where there is a limit, and knows the strangers."""

    def __init__(self, limits: PushLimits, metrics: Metrics, *, max_strangers: int = _MAX_STRANGERS) -> None:
        self._limits = limits
        self._refused = metrics.refused
        metrics.connections_max.set(limits.max_connections)
        self._max_strangers = max_strangers
        self._strangers: dict[Peer, None] = {}
        self._address_of: dict[Peer, str] = {}
        self._counts: dict[str, int] = {}

    def check(self, address: str, *, members: int, is_draining: bool) -> None:
        """Judge a request from `address` while `members` have places; raises `Refusal`."""
        most = self._limits.max_connections_per_address
        if is_draining:
            raise try_later("going_away", "this process is going away")
        if self.is_full(members):
            self._refused.labels("process").inc()
            raise try_later("full", "this process has as many connections as it takes")
        if most and self._counts.get(address, 0) >= most:
            self._refused.labels("address").inc()
            detail = f"an address has at most {most} connections here"
            raise Refusal(429, "too_many_connections", detail, headers={"Retry-After": _AGAIN_S})

    def is_full(self, members: int) -> bool:
        """Whether a stranger cannot have a place now: others came first."""
        return members >= self._limits.max_connections

    def enter(self, peer: Peer, origin: Origin) -> None:
        """Count a stranger. When there are too many, or nothing is left, those that waited longest go."""
        self._strangers[peer] = None
        if origin.address and self._limits.max_connections_per_address:
            self._address_of[peer] = origin.address
            self._counts[origin.address] = self._counts.get(origin.address, 0) + 1
        count = len(self._strangers)
        too_many = count - self._max_strangers
        if origin.is_scarce and count > 1:
            too_many = max(too_many, descriptors.share_to_free(count))
        for oldest in list(itertools.islice(self._strangers, max(0, too_many))):
            del self._strangers[oldest]
            self._refused.labels("no_room").inc()
            oldest.abort()

    def greet(self, peer: Peer) -> None:
        """Note that a peer has said who it is, or was told why it must go: it is no stranger any more."""
        self._strangers.pop(peer, None)

    def leave(self, peer: Peer) -> None:
        """Give back what a peer's socket took."""
        self._strangers.pop(peer, None)
        address = self._address_of.pop(peer, None)
        if address is not None:
            left = self._counts[address] - 1
            if left:
                self._counts[address] = left
            else:
                del self._counts[address]


def origin_of(request: web.BaseRequest, proxies: Proxies) -> Origin:
    """Return where a request comes from."""
    taken = request.get_extra_info("socket")
    return Origin(
        proxies.client_of(request.remote, request.headers.getall("X-Forwarded-For", ())),
        taken is not None and descriptors.is_scarce(taken.fileno()),
    )
