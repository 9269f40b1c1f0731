"""HTTP POSTs to hosts that others name: guarded against private addresses, bounded by host, size and time."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from prometheus_client import Gauge
from yarl import URL

from notifyd.channels.addresses import GuardedResolver, Lookup, SystemLookup, guarded_socket
from notifyd.channels.gate import Closed, Gate, Place
from notifyd.channels.outcomes import combine
from notifyd.channels.webhook_answers import outcome_of_error
from notifyd.channels.webhook_url import host_of, parse_url
from notifyd.delivery.outcome import Dead, Outcome, Retry
from notifyd.errors import PermanentError
from notifyd.version import VERSION

#: What is read of an answer's body, so that its connection can serve again. The status is the answer.
MAX_BODY_BYTES: Final = 4096
_BODY_S: Final = 0.5
#: An idle connection is kept this long: below the 5 s after which Node's servers close theirs.
_KEEPALIVE_S: Final = 4.0
_DNS_CACHE_S: Final = 30
#: Calls in a row that a kept connection may lose to the other side closing it.
_MAX_STALE: Final = 3
_CLOSED: Final = {
    "host_busy": "the host has too many calls under way",
    "host_down": "the host failed its last calls",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One POST. Its repr shows nothing: URLs and signatures are not for logs."""

    url: URL = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the status, and `Retry-After` as it stood there."""

    status: int
    retry_after: str | None


class _Trace:
    """What became of one call below: aiohttp tells it to the trace callback."""

    is_reused = False


class HttpCalls:
    """A pool of connections for one channel.

    A call ends within `timeout_s` and the wait for a place (1 s for each host at most). `calls` shows how
    many are under way, `down` how many hosts are down. `lookup` and `ssl_context` are ports for tests.
    """

    def __init__(
        self,
        channel: str,
        *,
        timeout_s: float,
        allow_private: bool,
        max_connections: int,
        host_concurrency: int,
        calls: Gauge,
        down: Gauge,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._max_connections = max_connections
        self._calls = calls
        self._lookup = lookup
        self._ssl_context = ssl_context
        self._gate = Gate(host_concurrency, warm_s=_KEEPALIVE_S, clock=time.monotonic, down=down)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool of connections."""
        tracer = aiohttp.TraceConfig()
        tracer.on_connection_reuseconn.append(_note_reuse)
        self._session = new_session(
            allow_private=self._allow_private,
            limit=self._max_connections,
            lookup=self._lookup,
            ssl_context=self._ssl_context,
            trace_configs=[tracer],
        )

    async def stop(self) -> None:
        """Close all connections. Calls under way are cut: drain before."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        urls: Sequence[str],
        make: Callable[[int, URL], Request | Dead],
        judge: Callable[[Reply], Outcome],
    ) -> Outcome:
        """Call all URLs of a user at the same time, a repeated one only once, and combine what comes of it.

        `make` builds the request for the URL at an index, `judge` says what its answer means. Nothing is
        sent to any of them, and no request is built, while one host is busy or down: what comes back for
        that reason (`host_busy`, `host_down`) does not count as an attempt, so it must not have been one.
        """
        session = self._session
        if session is None:
            raise PermanentError("the channel is not started", reason="not_started")
        targets: dict[int, URL] = {}
        outcomes: dict[int, Outcome] = {}
        for index, text in enumerate(urls):
            if text in urls[:index]:
                continue
            url = parse_url(text, allow_private=self._allow_private)
            if isinstance(url, Dead):
                outcomes[index] = url
            else:
                targets[index] = url
        hosts = {index: host_of(url) for index, url in targets.items()}
        places: dict[str, Place] = {}
        replies: dict[int, Reply | Retry | Dead] = {}
        try:
            for host in sorted(set(hosts.values())):
                place = await self._gate.enter(host)
                if isinstance(place, Closed):
                    return Retry(
                        place.reason, after_s=place.after_s, detail=_CLOSED[place.reason], counts=False
                    )
                places[host] = place
            requests = {index: make(index, url) for index, url in targets.items()}
            replies = await self._call_all(
                session,
                {
                    index: (request, places[hosts[index]].is_warm)
                    for index, request in requests.items()
                    if isinstance(request, Request)
                },
            )
            outcomes |= {index: one for index, one in requests.items() if isinstance(one, Dead)}
        finally:
            for host, place in places.items():
                has_failed = _has_failed(reply for index, reply in replies.items() if hosts[index] == host)
                self._gate.leave(place, has_failed=has_failed)
        for index, reply in replies.items():
            outcomes[index] = judge(reply) if isinstance(reply, Reply) else reply
        return combine(self._channel, outcomes)

    async def _call_all(
        self, session: aiohttp.ClientSession, calls: Mapping[int, tuple[Request, bool]]
    ) -> dict[int, Reply | Retry | Dead]:
        if len(calls) == 1:  # as with nearly all users; a task costs as much as the rest of this
            return {index: await self._call(session, *call) for index, call in calls.items()}
        async with asyncio.TaskGroup() as group:
            tasks = {index: group.create_task(self._call(session, *call)) for index, call in calls.items()}
        return {index: task.result() for index, task in tasks.items()}

    async def _call(
        self, session: aiohttp.ClientSession, request: Request, is_warm: bool
    ) -> Reply | Retry | Dead:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._calls.inc()
        try:
            async with asyncio.timeout_at(deadline):
                response = await _post(session, request, is_warm)
            try:
                await _skip_body(response, deadline)
            finally:
                response.release()  # keeps the connection only where the body came to its end
        except (aiohttp.ClientError, OSError) as error:
            return outcome_of_error(error, timeout_s=self._timeout_s)
        finally:
            self._calls.dec()
        return Reply(response.status, response.headers.get("Retry-After"))


def _has_failed(results: Iterable[Reply | Retry | Dead]) -> bool | None:
    """Say whether a host does not work; None where nothing came of any call, or nothing that is its fault."""
    found = [
        isinstance(result, Retry) or result.status >= 500
        for result in results
        if not isinstance(result, Dead)
    ]
    return all(found) if found else None


def new_session(
    *,
    allow_private: bool,
    limit: int,
    lookup: Lookup | None = None,
    ssl_context: ssl.SSLContext | None = None,
    trace_configs: list[aiohttp.TraceConfig] | None = None,
) -> aiohttp.ClientSession:
    """Open a session of `limit` connections that reaches public addresses alone, unless told otherwise.

    It has no limit of time: the caller does.
    """
    # No proxy or .netrc from the environment, no cookies, no inflating of what is thrown away.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=GuardedResolver(lookup or SystemLookup(), allow_private=allow_private),
            socket_factory=None if allow_private else guarded_socket,
            ssl=ssl_context or True,
            ttl_dns_cache=_DNS_CACHE_S,
            limit=limit,
            keepalive_timeout=_KEEPALIVE_S,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"User-Agent": f"notifyd/{VERSION}", "Accept-Encoding": "identity"},
        trace_configs=trace_configs,
    )


async def _post(session: aiohttp.ClientSession, request: Request, is_warm: bool) -> aiohttp.ClientResponse:
    """Return once the answer's head is there.

    The other side may close a kept connection just when a call goes out on it. That is no
    failure of the receiver, so the call is made again at once.
    """
    # Most hosts are called once in a while: keeping a connection to each would use up the sockets.
    headers = request.headers if is_warm else {**request.headers, "Connection": "close"}
    for _ in range(_MAX_STALE):
        trace = _Trace()
        try:
            return await session.post(
                request.url,
                data=request.body,
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=trace,
            )
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not trace.is_reused:
                raise
    raise aiohttp.ServerDisconnectedError


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: object) -> None:
    context.trace_request_ctx.is_reused = True


async def _skip_body(response: aiohttp.ClientResponse, deadline: float) -> None:
    left = MAX_BODY_BYTES
    try:
        if response.content.is_eof():  # it came with the head, as most do: no limit of time is needed
            response.content.read_nowait(left)
            return
        async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _BODY_S)):
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)
    except (aiohttp.ClientError, OSError):
        return  # the status has said it all
