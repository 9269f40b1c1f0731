"""An HTTP/1.1 client that does what a webhook needs, and nothing else: one POST, the status of its answer.

It knows no redirects, cookies, proxies or compression, and makes few objects for a call: see
docs/adr/post-webhooks-by-a-client-of-ours.md for what it costs beside aiohttp's, whose parser it uses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from functools import lru_cache, partial
from typing import Any, Final, cast

import msgspec
from aiohappyeyeballs import pop_addr_infos_interleave, start_connection
from aiohttp.http import HttpResponseParser
from yarl import URL

from notifyd.channels.addresses import GuardedResolver, guarded_socket
from notifyd.channels.http_faults import ConnectFailed, Disconnected, NameFailed, NotHttp, TlsFailed
from notifyd.version import VERSION

#: What is read of an answer's body, so that its connection can serve again. The status is the answer.
MAX_BODY_BYTES: Final = 4096
_BODY_S: Final = 0.5
#: An idle connection is kept this long: below the 5 s after which Node's servers close theirs.
KEEPALIVE_S: Final = 4.0
#: Between two looks for connections that were idle for so long.
_SWEEP_S: Final = 0.5
#: Calls in a row that a kept connection may lose to the other side closing it.
_MAX_STALE: Final = 3
#: What uvloop's clock rounds to.
_CLOCK_S: Final = 0.001
#: Names whose addresses are remembered.
_MAX_NAMES: Final = 4096
#: A second address is tried beside the first after this time (RFC 8305).
_NEXT_ADDRESS_S: Final = 0.25


class Request(msgspec.Struct, frozen=True):
    """One POST. Its repr shows nothing: URLs and signatures are not for logs."""

    url: URL
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return "Request()"


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What came back: the status, and `Retry-After` as it stood there, unless it is a success."""

    status: int
    retry_after: str | None = None


class _Target(msgspec.Struct, frozen=True):
    """What all calls of one URL share. `key` is the place that connections lead to."""

    key: tuple[bool, str, int]
    head: str


@lru_cache(maxsize=4096)
def _target_of(url: URL) -> _Target:
    host, port = url.raw_host, url.port
    assert host
    assert port
    head = (
        f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
        f"User-Agent: notifyd/{VERSION}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
    )
    return _Target((url.scheme == "https", host, port), head)


def _encode(target: _Target, request: Request, *, keep: bool) -> bytes:
    """Encode a request; raises `ValueError` for a header that would end before its line does."""
    headers = request.headers
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header has a line break or a NUL in it")
    end = "\r\n" if keep else "Connection: close\r\n\r\n"
    return f"{target.head}{lines}Content-Length: {len(request.body)}\r\n{end}".encode("ascii") + request.body


class _Connection(asyncio.Protocol):
    """One connection, for one call at a time."""

    __slots__ = (
        "_deadline",
        "_loop",
        "_parser",
        "_payload",
        "_reading_paused",
        "_received",
        "_reply",
        "_timer",
        "_timer_at",
        "_waiter",
        "idle_since",
        "is_closed",
        "is_reusable",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: Any = None
        self.is_closed = False
        #: Whether the answer that came last left it as it was.
        self.is_reusable = False
        self.idle_since = 0.0
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._payload: Any = None
        self._received = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._parser = HttpResponseParser(
            cast(Any, self), loop, 2**16, read_until_eof=True, auto_decompress=False
        )
        # A seam of the parser's stream: it asks for this, and never waits, since nobody reads the body.
        self._reading_paused = False

    async def call(self, data: bytes, deadline: float) -> Reply:
        """Send a request; return its answer. Raises `TimeoutError`, `Disconnected`, `NotHttp`."""
        if self.is_closed:
            raise Disconnected
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        self.is_reusable = False
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            self._arm(deadline)
        self.transport.write(data)
        try:
            return await waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """End the connection at once: what is not sent yet has nobody who waits for it."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is not None:
            self.transport.abort()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():  # nothing was asked, or nobody wants to know any more
            self.close()
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception:  # of many kinds, and all say that it is not HTTP
            if self._reply is None:
                self._fail(NotHttp())
            else:
                self._finish(keeps=False)
            return
        is_body = self._reply is not None
        for message, payload in messages:
            if self._reply is None:
                self._read_head(message, payload)
            else:  # a second answer to one request
                self.is_reusable = False
        if self._reply is None:
            return
        self._received += len(data) if is_body else 0
        if self._payload.is_eof():
            self._finish(keeps=self.is_reusable)
        elif self._received > MAX_BODY_BYTES:
            self._finish(keeps=False)
        elif not is_body:
            self._deadline = min(self._deadline, self._loop.time() + _BODY_S)
            self._arm(self._deadline)

    def _read_head(self, message: Any, payload: Any) -> None:
        status = message.code
        if 100 <= status < 200 and status != 101:
            return
        self._reply = Reply(status, message.headers.get("Retry-After") if status >= 300 else None)
        self._payload = payload
        self._received = 0
        self.is_reusable = not message.should_close and status != 101

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()
        if self._reply is not None:
            self._finish(keeps=False)
        else:
            self._fail(Disconnected())

    def pause_reading(self) -> None:
        """Do nothing: a body ends here long before it is too much."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing."""

    # Within

    def _finish(self, *, keeps: bool) -> None:
        reply, self._reply, self._payload = self._reply, None, None
        waiter = self._waiter
        assert reply is not None
        self.is_reusable = keeps and not self.transport.get_write_buffer_size()
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _fail(self, error: Exception) -> None:
        self.is_reusable = False
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    # A limit of time for each call: one timer, which is armed anew once it ends before that of the call.

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._on_time), at

    def _on_time(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() + _CLOCK_S < self._deadline:
            self._arm(self._deadline)
        elif self._reply is not None:  # the status has said it all
            self._finish(keeps=False)
        else:
            self._fail(TimeoutError())


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
        self._idle: dict[tuple[bool, str, int], list[_Connection]] = {}
        self._connections: set[_Connection] = set()
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
        target = _target_of(request.url)
        data = _encode(target, request, keep=keep)
        if self._slots.locked():
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
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

    def _take(self, key: tuple[bool, str, int]) -> _Connection | None:
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if not connection.is_closed and not connection.transport.is_closing():
                return connection
            self._drop(connection)
        return None

    def _keep(self, key: tuple[bool, str, int], connection: _Connection) -> None:
        connection.idle_since = self._loop.time()
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = []
        idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_S, self._close_idle)

    def _drop(self, connection: _Connection) -> None:
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

    async def _connect(self, key: tuple[bool, str, int], deadline: float) -> _Connection:
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

    async def _connect_to(self, infos: list[Any], tls_host: str | None) -> _Connection:
        try:
            sock = await start_connection(
                infos,
                happy_eyeballs_delay=_NEXT_ADDRESS_S,
                interleave=1,
                loop=self._loop,
                socket_factory=self._make_socket,
            )
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self._loop),
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
