"""`GET /v1/push`: the door of the push protocol."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from aiohttp import web

from notifyd.push import acks, sse
from notifyd.push.acks import AckDoor
from notifyd.push.addresses import Proxies
from notifyd.push.admission import origin_of
from notifyd.push.auth import Identity, KeysUnavailable, PermissionDenied, TokenVerifier
from notifyd.push.connection import Connection
from notifyd.push.deflate import DeflatingConnection, accept_extension, choose_window_bits
from notifyd.push.handover import HandedOver, check_handshake, hand_over
from notifyd.push.hub import Hub
from notifyd.push.protocol import CloseCode, Hello
from notifyd.push.requests import Browsers, OriginList, Refusal, bearer_of
from notifyd.push.sse import SseDoor
from notifyd.push.tickets import Tickets
from notifyd.settings import Settings

PATH: Final = "/v1/push"
#: A peer that acknowledges nothing for so many heartbeats is dead.
_DEAD_AFTER_BEATS: Final = 2


class Door:
    """Checks who comes in: handshake, origin, token."""

    def __init__(self, hub: Hub, verifier: TokenVerifier, proxies: Proxies, settings: Settings) -> None:
        self._hub = hub
        self._verifier = verifier
        self._origins = OriginList(settings.ws_origins)
        self._proxies = proxies
        self._dead_after_s = _DEAD_AFTER_BEATS * settings.ws_heartbeat_s
        self._deflates = settings.ws_deflate
        self._verifying: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Upgrade the request and hand its socket to a `Connection`."""
        accept = check_handshake(request)
        origin = origin_of(request, self._proxies)
        try:
            self._hub.check(origin)
        except Refusal as refusal:
            response = refusal.response()
            response.force_close()
            return response
        greet = partial(self._greet, bearer_of(request))
        offered = ",".join(request.headers.getall("Sec-WebSocket-Extensions", ())) if self._deflates else ""
        connection, extension = Connection(self._hub, greet), ""
        if bits := choose_window_bits(offered):
            connection, extension = DeflatingConnection(self._hub, greet), accept_extension(offered, bits)
            connection.pack(bits)
        self._hub.accept(connection, origin)
        try:
            answer = hand_over(
                request, accept, connection, extension=extension, dead_after_s=self._dead_after_s
            )
        except ConnectionResetError:
            connection.connection_lost(None)
            return HandedOver()
        # A browser shows its page no HTTP status, only a close code: so it is let in first.
        if not self._origins.allows(request.headers.get("Origin")):
            connection.close(CloseCode.ORIGIN_REFUSED, "this origin is not on NOTIFYD_WS_ORIGINS")
        return answer

    async def stop(self, _app: web.Application) -> None:
        """End the checks that are under way."""
        for task in self._verifying:
            task.cancel()
        await asyncio.gather(*self._verifying, return_exceptions=True)
        await self._verifier.stop()

    def _greet(self, bearer: str | None, connection: Connection, hello: Hello) -> None:
        token = hello.token or bearer
        if not token:
            connection.close(CloseCode.UNAUTHORISED, "a hello needs a token")
            return
        if not self._verifier.is_stale:
            try:
                self._join(connection, self._verifier.verify(token), hello)
                return
            except PermissionDenied as error:
                connection.close(CloseCode.UNAUTHORISED, error.message)
                return
            except KeysUnavailable:
                pass
        task = asyncio.create_task(self._greet_later(token, connection, hello), name="verify a token")
        self._verifying.add(task)
        task.add_done_callback(self._verifying.discard)

    async def _greet_later(self, token: str, connection: Connection, hello: Hello) -> None:
        try:
            identity = await self._verifier.authenticate(token)
        except PermissionDenied as error:
            connection.close(CloseCode.UNAUTHORISED, error.message)
        except KeysUnavailable as error:
            connection.close(CloseCode.TRY_LATER, error.message)
        except Exception:
            connection.close(CloseCode.INTERNAL, "the token could not be checked")
            raise
        else:
            self._join(connection, identity, hello)

    def _join(self, connection: Connection, identity: Identity, hello: Hello) -> None:
        self._hub.join(
            connection, identity.user, identity.expires_at_s, hello, issued_at_s=identity.issued_at_s
        )


def add_push_routes(app: web.Application, hub: Hub, verifier: TokenVerifier, settings: Settings) -> None:
    """Serve the push protocol: by WebSocket, by server-sent events, and what goes with those."""
    proxies = Proxies(settings.trusted_proxies)
    door = Door(hub, verifier, proxies, settings)
    app.router.add_get(PATH, door.handle, allow_head=False)
    app.on_cleanup.append(door.stop)
    browsers = Browsers(OriginList(settings.ws_origins))
    streams = SseDoor(
        hub,
        verifier,
        browsers,
        Tickets(settings),
        proxies,
        dead_after_s=_DEAD_AFTER_BEATS * settings.ws_heartbeat_s,
    )
    browsers.add(app, "GET", sse.PATH, streams.open)
    browsers.add(app, "POST", sse.TICKET_PATH, streams.issue)
    browsers.add(app, "POST", acks.PATH, AckDoor(hub, verifier).take)
