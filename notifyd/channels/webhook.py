"""Webhooks: one signed HTTPS POST to each URL of a user. What receivers see: docs/reference/webhooks.md."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import msgspec

from notifyd.channels.addresses import GuardedResolver, Lookup, SystemLookup, guarded_socket
from notifyd.channels.gate import Gate, Place
from notifyd.channels.port import Delivery
from notifyd.channels.webhook_answers import combine, outcome_of_error, outcome_of_status
from notifyd.channels.webhook_request import Request, make_request
from notifyd.delivery.contact import Contact, WebhookAddress
from notifyd.delivery.outcome import Outcome, Retry, Skip
from notifyd.errors import PermanentError
from notifyd.message.envelope import Message, public_envelope
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.version import VERSION

#: What is read of an answer's body, so that its connection can serve again. The status is the answer.
MAX_BODY_BYTES: Final = 4096
_BODY_S: Final = 0.5
#: An idle connection is kept this long: below the 5 s after which Node's servers close theirs.
_KEEPALIVE_S: Final = 4.0
_DNS_CACHE_S: Final = 30
#: Calls in a row that a kept connection may lose to the other side closing it.
_MAX_STALE: Final = 3


class _Trace:
    """What became of one call below: aiohttp tells it to the trace callback."""

    is_reused = False


class WebhookChannel:
    """The channel `webhook`.

    A send ends within `webhook_timeout_s` and the wait for a place (1 s for each host at most);
    the URLs of a user are called at the same time. `lookup`, `ssl_context` and `clock` (Unix
    time in seconds) are ports for tests.
    """

    name = "webhook"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timeout_s = settings.webhook_timeout_s
        self._allow_private = settings.webhook_allow_private
        self._max_connections = settings.deliver_concurrency
        self._calls = metrics.webhook_calls
        self._lookup = lookup
        self._ssl_context = ssl_context
        self._clock = clock
        self._gate = Gate(settings.webhook_host_concurrency, warm_s=_KEEPALIVE_S, clock=time.monotonic)
        self._session: aiohttp.ClientSession | None = None
        # The recipients of a message come one after another: encode it once for all of them.
        self._latest: tuple[Message | None, bytes] = (None, b"")

    async def start(self) -> None:
        """Open the pool of connections."""
        tracer = aiohttp.TraceConfig()
        tracer.on_connection_reuseconn.append(_note_reuse)
        # No proxy or .netrc from the environment, no cookies, no inflating of what is thrown away.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=GuardedResolver(self._lookup or SystemLookup(), allow_private=self._allow_private),
                socket_factory=None if self._allow_private else guarded_socket,
                ssl=self._ssl_context or True,
                ttl_dns_cache=_DNS_CACHE_S,
                limit=self._max_connections,
                keepalive_timeout=_KEEPALIVE_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),  # `_call` has one over everything
            headers={"User-Agent": f"notifyd/{VERSION}", "Accept-Encoding": "identity"},
            trace_configs=[tracer],
        )

    async def stop(self) -> None:
        """Close all connections. Calls under way are cut: drain before."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Call every URL of `contact` once, a repeated one only the first time.

        Nothing is sent to any of them while one host is busy: what comes back for that reason
        does not count as an attempt, so it must not have been one.
        """
        session = self._session
        if session is None:
            raise PermanentError("the webhook channel is not started", reason="not_started")
        if not contact.webhook:
            return Skip("no_address")
        body = self._body(delivery)
        addresses: dict[str, tuple[int, WebhookAddress]] = {}
        for index, address in enumerate(contact.webhook):
            addresses.setdefault(address.url, (index, address))
        requests: dict[int, Request] = {}
        outcomes: dict[int, Outcome] = {}
        for index, address in addresses.values():
            made = make_request(
                address, delivery, body, now_s=self._clock(), allow_private=self._allow_private
            )
            if isinstance(made, Request):
                requests[index] = made
            else:
                outcomes[index] = made
        places: dict[str, Place] = {}
        try:
            for host in sorted({request.host for request in requests.values()}):
                place = await self._gate.enter(host)
                if place is None:
                    return Retry("host_busy", detail="the host has too many calls under way", counts=False)
                places[host] = place
            async with asyncio.TaskGroup() as group:
                calls = {
                    index: group.create_task(self._call(session, request, body, places[request.host].is_warm))
                    for index, request in requests.items()
                }
        finally:
            for place in places.values():
                self._gate.leave(place)
        return combine(outcomes | {index: call.result() for index, call in calls.items()})

    async def _call(
        self, session: aiohttp.ClientSession, request: Request, body: bytes, is_warm: bool
    ) -> Outcome:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._calls.inc()
        try:
            async with asyncio.timeout_at(deadline):
                response = await _post(session, request, body, is_warm)
            try:
                await _skip_body(response, deadline)
            finally:
                response.release()  # keeps the connection only where the body came to its end
        except (aiohttp.ClientError, OSError) as error:
            return outcome_of_error(error, timeout_s=self._timeout_s)
        finally:
            self._calls.dec()
        retry_after = response.headers.get("Retry-After")
        return outcome_of_status(response.status, retry_after, now_s=self._clock())

    def _body(self, delivery: Delivery) -> bytes:
        message, envelope = self._latest
        if message is not delivery.message:
            envelope = public_envelope(delivery.message)
            self._latest = (delivery.message, envelope)
        return b'{"user":' + msgspec.json.encode(delivery.user) + b',"message":' + envelope + b"}"


async def _post(
    session: aiohttp.ClientSession, request: Request, body: bytes, is_warm: bool
) -> aiohttp.ClientResponse:
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
                data=body,
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
        async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _BODY_S)):
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)
    except (aiohttp.ClientError, OSError):
        return  # the status has said it all
