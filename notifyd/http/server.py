"""The HTTP servers of a process: the admin one from the first second, the public one for `ws` and `api`."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from notifyd.errors import ConfigError
from notifyd.http.client_faults import calm_server_log
from notifyd.http.health import Health
from notifyd.http.waiting import Waiting
from notifyd.metrics import Metrics
from notifyd.push.requests import Refusal, try_later
from notifyd.version import VERSION

#: Programs call what is below it: they are answered by problem details, whatever happens.
_API: Final = "/v1/"
#: What a client gets for the head of its first request, however slowly it writes, and between two
#: requests: an idle or slow one may not hold a socket for aiohttp's hour.
_HEAD_S: Final = 15.0
#: How often it is looked whether all clients have gone.
_LOOK_S: Final = 0.05
#: What those may take who sent a request at the last moment.
_LAST_S: Final = 0.5

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """One aiohttp application on one address.

    `bind` takes the port, so that a conflict shows at once and `port` is known; connections are
    refused until `start` listens.
    """

    def __init__(self, host: str, port: int, *, setting: str, head_s: float = _HEAD_S) -> None:
        self._host = host
        self._setting = setting
        self._head_s = head_s
        self.port = port
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._waiting = Waiting()

    def bind(self) -> None:
        """Take the address; raises `ConfigError` that names the setting when it cannot be had."""
        try:
            infos = socket.getaddrinfo(
                self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = infos[0]
            taken = socket.socket(family, kind, protocol)
        except OSError as error:
            raise _cannot_listen(error, self._host, self.port, self._setting) from error
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setblocking(False)
            taken.bind(address)
        except OSError as error:
            taken.close()
            raise _cannot_listen(error, self._host, self.port, self._setting) from error
        self._socket = taken
        self.port = taken.getsockname()[1]

    async def start(self, app: web.Application) -> None:
        """Listen; raises `ConfigError` where another process took the port after all."""
        assert self._socket is not None, "bind first"
        calm_server_log()
        app.middlewares.insert(0, self._waiting.middleware)
        app.on_response_prepare.append(_name_server)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=self._head_s,
            # How long it reads on of a body that was refused, so that the answer is not lost to a reset.
            lingering_time=2.0,
        )
        await runner.setup()
        assert runner.server is not None
        self._waiting.watch(runner.server)
        # The listen backlog is as large as the kernel lets: a deploy sends all clients at once.
        site = web.SockSite(runner, self._socket, backlog=65535)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(error, self._host, self.port, self._setting) from error
        self._runner = runner

    async def send_away(self, limit_s: float) -> None:
        """Return once no client keeps a connection open, after `limit_s` seconds at the latest.

        What answers meanwhile says that its connection ends (`PublicSite`); those that are between two
        requests then are closed. Sockets that were handed over do not count.
        """
        server = self._runner.server if self._runner is not None else None
        if server is None:
            return
        await self._until_left(server, limit_s)
        self._waiting.close_kept()
        # Who was not closed has sent a request, whose answer is on its way.
        await self._until_left(server, min(limit_s, _LAST_S))

    @staticmethod
    async def _until_left(server: web.Server, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while server.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - aiohttp tells by asking
            await asyncio.sleep(_LOOK_S)

    async def stop(self) -> None:
        """Close the listener and what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    # What it is made of, and in which version, is for nobody outside to know.
    response.headers["Server"] = "notifyd"


def _cannot_listen(error: OSError, host: str, port: int, setting: str) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} on {host} is in use",
            reason="port_in_use",
            remedy=f"end what listens there, or set {setting}_PORT to another port (0: any free one)",
        )
    return ConfigError(
        f"cannot listen on {host}:{port}: {error.strerror}",
        reason="cannot_listen",
        remedy=f"check {setting}_HOST and {setting}_PORT",
    )


def admin_app(health: Health, metrics: Metrics) -> web.Application:
    """Return the application of `/healthz`, `/readyz` and `/metrics`."""

    async def healthz(_: web.Request) -> web.Response:
        stuck = health.stuck()
        body: dict[str, Any] = {"alive": not stuck, "version": VERSION}
        if stuck:
            body["stuck"] = stuck
        return web.json_response(body, status=503 if stuck else 200)

    async def readyz(_: web.Request) -> web.Response:
        waits = health.waits_for()
        return web.json_response({"ready": not waits, "waits_for": waits}, status=503 if waits else 200)

    async def show_metrics(request: web.Request) -> web.Response:
        # Exemplars take the newer of the two formats, which Prometheus asks for.
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    return app


class PublicSite:
    """The public application. A route answers 503 for as long as the role that serves it is not ready.

    `lacks` names what a role waits for. Routes are added to `app`; `claim` says whose they are, and
    what nobody claims is always served: one role's trouble never closes what another one serves.

    From the signal to stop on, requests are served for as long as the role can: a load balancer knows of it
    later, and clients that keep a connection do not know at all. So every answer then ends its connection.
    """

    def __init__(self, lacks: Callable[[str], list[str]], is_stopping: Callable[[], bool]) -> None:
        self.app = web.Application(middlewares=[self._end_when_stopping, self._only_when_ready])
        self._lacks = lacks
        self._is_stopping = is_stopping
        self._owners: dict[web.AbstractRoute, str] = {}

    def claim(self, role: str) -> None:
        """Note that every route added since the last call is served by `role`."""
        for route in self.app.router.routes():
            self._owners.setdefault(route, role)

    @web.middleware
    async def _end_when_stopping(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if self._is_stopping():
            response.force_close()
        return response

    @web.middleware
    async def _only_when_ready(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        role = self._owners.get(request.match_info.route)
        waits = self._lacks(role) if role is not None else []
        if waits:
            return try_later("not_ready", f"not ready: {', '.join(waits)}").response()
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            if not request.path.startswith(_API):
                raise
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            detail = f"there is no {request.method} {request.path}"
            return Refusal(error.status, "no_such_route", detail, headers=allow).response()
