"""Connections whose request is not here yet: bounded, so that sockets that say nothing take no room.

aiohttp ends each after `keepalive_timeout`; until then an attacker could open as many as there are
descriptors. Here the one that waits longest goes first, and an honest client waits for no time.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import termios
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from notifyd import descriptors

#: About 15 KB each.
_MOST: Final = 16_384
#: So many may wait however few descriptors are left: who comes in last must not go first.
_LEAST: Final = 16


def _has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes have arrived that the loop had no time to read: a request that must get its answer."""
    taken = transport.get_extra_info("socket")
    if taken is None or taken.fileno() < 0:
        return False
    return any(fcntl.ioctl(taken.fileno(), termios.FIONREAD, bytes(4)))


class Waiting:
    """Watches the server that `watch` is given; `middleware` tells it that a request came."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        #: Whether each has had an answer before.
        self._handlers: dict[RequestHandler, bool] = {}

    def watch(self, server: web.Server) -> None:
        """Learn of the server's connections from now on."""
        made, lost = server.connection_made, server.connection_lost

        def on_made(handler: RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            taken = transport.get_extra_info("socket")
            is_scarce = taken is not None and descriptors.is_scarce(taken.fileno())
            self._wait(handler, is_kept=False, is_scarce=is_scarce)

        def on_lost(handler: RequestHandler, exc: BaseException | None = None) -> None:
            self._handlers.pop(handler, None)
            lost(handler, exc)

        server.connection_made = on_made  # type: ignore[method-assign]
        server.connection_lost = on_lost  # type: ignore[method-assign]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the connection be while its request is served."""
        self._handlers.pop(request.protocol, None)
        try:
            return await handler(request)
        finally:
            # It waits for the next request now, unless its socket is gone or somebody else's.
            if request.protocol.transport is not None:
                self._wait(request.protocol, is_kept=True, is_scarce=False)

    def close_kept(self) -> None:
        """Close those that were kept after an answer; who has just come, or asks again, is let in."""
        for handler in [handler for handler, is_kept in self._handlers.items() if is_kept]:
            if handler.transport is not None and not _has_unread(handler.transport):
                del self._handlers[handler]
                handler.transport.close()

    def _wait(self, handler: RequestHandler, *, is_kept: bool, is_scarce: bool) -> None:
        self._handlers[handler] = is_kept
        count = len(self._handlers)
        too_many = count - self._most
        if is_scarce and count > _LEAST:
            too_many = max(too_many, descriptors.share_to_free(count))
        for oldest in list(itertools.islice(self._handlers, max(0, too_many))):
            del self._handlers[oldest]
            if oldest.transport is not None:
                oldest.transport.abort()
