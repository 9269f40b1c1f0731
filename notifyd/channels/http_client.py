"""An HTTP/1.1 client that does what a webhook needs, and nothing else: one POST, the status of its answer.

It knows no redirects, cookies, proxies or compression, and makes few objects for a call: see
docs/adr/post-webhooks-by-a-client-of-ours.md for what it costs beside aiohttp's, whose parser it uses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from functools import partial
from typing import Any, Final

from aiohappyeyeballs import pop_addr_infos_interleave, start_connection

from notifyd.channels.addresses import GuardedResolver, guarded_socket
from notifyd.channels.http_connection import Connection
from notifyd.channels.http_faults import ConnectFailed, Disconnected, NameFailed, NoRoom, TlsFailed
from notifyd.channels.http_message import Reply, Request, encode, target_of

#: An idle connection is kept this long: below the 5 s after which Node's servers close theirs.
KEEPALIVE_S: Final = 4.0
#: Between two looks for connections that were idle for so long.
_SWEEP_S: Final = 0.5
#: Calls in a row that a kept connection may lose to the other side closing it.
_MAX_STALE: Final = 3
#: A wait for others to end, where as many calls as there may be are under way.
_ROOM_S: Final = 1.0
#: Names whose addresses are remembered.
_MAX_NAMES: Final = 4096
#: A second address is tried beside the first after this time (RFC 8305).
_NEXT_ADDRESS_S: Final = 0.25


class HttpClient:
    """Connections to hosts that others name, `limit` calls at a time.

    A kept connection leads to the address that was judged when it was made, and names are looked up again
    after `names_s` seconds. `ssl_context` is the system's trust by default.
    """

    def __init__(
        self,
        resolver: GuardedResolver,
        *,
        allow_private: bool,
        limit: int,
        names_s: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = resolver
        self._make_socket = None if allow_private else guarded_socket
        self._slots = asyncio.Semaphore(limit)
        self._names_s = names_s
        self._ssl_context = ssl_context or _make_ssl_context()
        self._loop = asyncio.get_running_loop()
        self._idle: dict[tuple[bool, str, int], list[Connection]] = {}
        self._connections: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._names: dict[tuple[str, int], tuple[float, list[Any]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[list[Any]]] = {}
        self._is_closed = False

    def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._lookups.values():
            task.cancel()
        for connection in tuple(self._connections):
            connection.close()
        self._idle.clear()

    async def post(self, request: Request, deadline: float, *, keep: bool) -> Reply:
        """Make one call that ends by `deadline` (the loop's time); `keep` its connection for others after it.

        Raises `HttpFault` and `TimeoutError`. The other side may close a kept connection just when a call
        goes out on it. That is no failure of the receiver, so the call is made again at once.
        """
        target = target_of(request.url)
        data = encode(target, request, keep=keep)
        if self._slots.locked():
            try:
                # Not until the deadline: it would be missed by a receiver that nobody has asked yet.
                async with asyncio.timeout_at(min(deadline, self._loop.time() + _ROOM_S)):
                    await self._slots.acquire()
            except TimeoutError:
                raise NoRoom from None
        else:
            await self._slots.acquire()
        try:
            for _ in range(_MAX_STALE):
                connection = self._take(target.key)
                is_fresh = connection is None
                if connection is None:
                    connection = await self._connect(target.key, deadline)
                try:
                    reply = await connection.call(data, deadline)
                except Disconnected:
                    self._drop(connection)
                    if is_fresh:
                        raise
                except BaseException:
                    self._drop(connection)
                    raise
                else:
                    if keep and connection.is_reusable and not self._is_closed:
                        self._keep(target.key, connection)
                    else:
                        self._drop(connection)
                    return reply
            raise Disconnected
        finally:
            self._slots.release()

    # Kept connections

    def _take(self, key: tuple[bool, str, int]) -> Connection | None:
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if not connection.is_closed and not connection.transport.is_closing():
                return connection
            self._drop(connection)
        return None

    def _keep(self, key: tuple[bool, str, int], connection: Connection) -> None:
        connection.idle_since = self._loop.time()
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = []
        idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_S, self._close_idle)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        connection.close()

    def _close_idle(self) -> None:
        limit = self._loop.time() - KEEPALIVE_S
        for key, idle in tuple(self._idle.items()):
            kept = []
            for connection in idle:
                if connection.is_closed or connection.idle_since <= limit:
                    self._drop(connection)
                else:
                    kept.append(connection)
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]
        self._sweep = self._loop.call_later(_SWEEP_S, self._close_idle) if self._idle else None

    # New connections

    async def _connect(self, key: tuple[bool, str, int], deadline: float) -> Connection:
        is_tls, host, port = key
        try:
            async with asyncio.timeout_at(deadline):
                infos = await self._look_up(host, port)
                while True:
                    try:
                        connection = await self._connect_to(infos, host if is_tls else None)
                    except (ConnectFailed, TlsFailed):
                        pop_addr_infos_interleave(infos, 1)
                        if not infos:
                            raise
                    else:
                        break
        except OSError as error:
            raise error if _is_timeout(error) else NameFailed(error) from error
        self._connections.add(connection)
        if self._is_closed:
            self._drop(connection)
        return connection

    async def _connect_to(self, infos: list[Any], tls_host: str | None) -> Connection:
        try:
            sock = await start_connection(
                infos,
                happy_eyeballs_delay=_NEXT_ADDRESS_S,
                interleave=1,
                loop=self._loop,
                socket_factory=self._make_socket,
            )
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._loop),
                sock=sock,
                ssl=self._ssl_context if tls_host else None,
                server_hostname=tls_host.rstrip(".") if tls_host else None,
            )
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise TlsFailed(error) from error
        except OSError as error:
            raise error if _is_timeout(error) else ConnectFailed(error) from error
        return connection

    async def _look_up(self, host: str, port: int) -> list[Any]:
        """Return what may be connected to, as getaddrinfo would, a list of the caller's own."""
        if _is_number(host):
            return [_info(host, port)]
        known = self._names.get((host, port))
        if known is not None and self._loop.time() < known[0]:
            infos = known[1]
            infos.append(infos.pop(0))  # each address in turn, as who publishes several of them expects
            return list(infos)
        task = self._lookups.get((host, port))
        if task is None:  # one for all who want to know: each takes a thread
            task = self._lookups[host, port] = self._loop.create_task(self._resolve(host, port))
            task.add_done_callback(partial(self._looked_up, (host, port)))
        return list(await asyncio.shield(task))

    async def _resolve(self, host: str, port: int) -> list[Any]:
        infos = [_info(found["host"], port) for found in await self._resolver.resolve(host, port)]
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._names[host, port] = (self._loop.time() + self._names_s, infos)
        return infos

    def _looked_up(self, key: tuple[str, int], task: asyncio.Task[list[Any]]) -> None:
        del self._lookups[key]
        if not task.cancelled():
            task.exception()  # those who waited may be gone


def _info(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_timeout(error: OSError) -> bool:
    """Whether it is the end of a limit of ours; one of the system's has a number."""
    return isinstance(error, TimeoutError) and error.errno is None


def _make_ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
