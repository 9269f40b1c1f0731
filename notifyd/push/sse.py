"""`GET /v1/push/sse` and `POST /v1/push/ticket`: the push protocol for who can only read."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from multidict import MultiMapping

from notifyd.errors import TransientError
from notifyd.push.addresses import Proxies
from notifyd.push.admission import origin_of
from notifyd.push.auth import Identity, PermissionDenied, TokenVerifier
from notifyd.push.handover import HandedOver, give_socket
from notifyd.push.hub import Hub
from notifyd.push.protocol import ERROR_OF, CloseCode, Hello
from notifyd.push.requests import Browsers, Refusal, bearer_of, identify, try_later, unauthorised
from notifyd.push.stream import EventStream
from notifyd.push.tickets import TTL_S, NoTickets, Tickets

PATH: Final = "/v1/push/sse"
TICKET_PATH: Final = "/v1/push/ticket"

#: What the close codes by which the hub refuses a peer are over HTTP; any other is 503.
STATUS_OF: Final[Mapping[CloseCode, int]] = {
    CloseCode.BAD_FRAME: 400,
    CloseCode.UNAUTHORISED: 401,
    CloseCode.ORIGIN_REFUSED: 403,
    CloseCode.TOO_MANY_CONNECTIONS: 429,
}
#: Who has no backoff of its own, as `EventSource`, comes back after a time out of this range (ms), so
#: that the clients of a process that died do not all come at once.
_RETRY_MS: Final = (1_000, 5_000)
_AGAIN_S: Final = "5"

_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    # A proxy that compresses what it passes on keeps it back as well.
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    # The answer ends with the connection: no length, no chunks.
    "Connection": "close",
}


class SseDoor:
    """Checks who comes in, and hands their sockets to `EventStream`s."""

    def __init__(
        self,
        hub: Hub,
        verifier: TokenVerifier,
        browsers: Browsers,
        tickets: Tickets,
        proxies: Proxies,
        *,
        dead_after_s: float,
    ) -> None:
        self._hub = hub
        self._verifier = verifier
        self._browsers = browsers
        self._tickets = tickets
        self._proxies = proxies
        self._dead_after_s = dead_after_s

    async def open(self, request: web.Request) -> web.StreamResponse:
        """Answer with a stream that ends when either side leaves; raises `Refusal`."""
        hello = read_hello(request.query, request.headers.get("Last-Event-ID"))
        origin = origin_of(request, self._proxies)
        self._hub.check(origin)
        if request.body_exists:
            raise Refusal(400, "bad_request", "this request has no body")
        identity = await self._identify(request)
        self._hub.check(origin)
        head = encode_head({**_HEADERS, **self._browsers.headers(request)})
        stream = EventStream(self._hub)
        self._hub.accept(stream, origin)
        self._hub.join(
            stream,
            identity.user,
            identity.expires_at_s,
            hello,
            issued_at_s=identity.issued_at_s,
            may_wait=False,
        )
        if stream.refusal is not None:
            stream.connection_lost(None)
            raise _refusal_of(*stream.refusal)
        try:
            return give_socket(request, head, stream, dead_after_s=self._dead_after_s)
        except ConnectionResetError:
            stream.connection_lost(None)
            return HandedOver()

    async def issue(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/push/ticket`; raises `Refusal`."""
        identity = await identify(self._verifier, request)
        try:
            ticket = self._tickets.make(identity)
        except NoTickets as error:
            raise _no_tickets(error) from None
        return web.json_response(
            {"ticket": ticket, "expires_in_s": int(TTL_S)}, headers={"Cache-Control": "no-store"}
        )

    async def _identify(self, request: web.Request) -> Identity:
        ticket = request.query.get("ticket")
        if ticket is None or bearer_of(request) is not None:
            return await identify(self._verifier, request)
        try:
            return self._tickets.take(ticket)
        except PermissionDenied as error:
            raise unauthorised(error.message) from None
        except NoTickets as error:
            raise _no_tickets(error) from None
        except TransientError as error:
            raise try_later(error.reason, error.message) from None


def read_hello(query: MultiMapping[str], last_event_id: str | None) -> Hello:
    """Read what a WebSocket says in its `hello`: `cursor`, `at` and `content` (several times each), `ack`.

    `Last-Event-ID` comes from a browser that reconnects by itself, with the URL of its first time: it is
    newer than `cursor`. What came with that URL's `at` is covered by it. Raises `Refusal` (400).
    """
    given: dict[str, Any] = {"at": query.getall("at", [])}
    cursor = last_event_id or query.get("cursor")
    if cursor:
        given["cursor"] = cursor
    if "content" in query:
        given["content"] = query.getall("content")
    errors = []
    if "ack" in query:
        given["ack"] = query["ack"] == "true"
        if query["ack"] not in ("true", "false"):
            errors.append({"parameter": "ack", "detail": "is neither true nor false"})
    for name, value in given.items():
        try:
            msgspec.convert({name: value}, Hello)
        except msgspec.ValidationError as error:
            errors.append({"parameter": name, "detail": str(error)})
    if errors:
        raise Refusal(400, "bad_request", "the query is wrong", errors=errors)
    return msgspec.convert(given, Hello)


def encode_head(headers: Mapping[str, str]) -> bytes:
    """Encode the head of a stream, and how long a client that asks nobody waits to come back."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 200 OK\r\n{lines}\r\nretry: {random.randint(*_RETRY_MS)}\n\n"
    # As aiohttp decodes what a client sent, an `Origin` in particular.
    return head.encode(errors="surrogateescape")


def _refusal_of(code: CloseCode, detail: str) -> Refusal:
    status = STATUS_OF.get(code, 503)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": _AGAIN_S}
    return Refusal(status, ERROR_OF.get(code, "going_away"), detail or "not here, not now", headers=headers)


def _no_tickets(error: NoTickets) -> Refusal:
    return Refusal(501, error.reason, error.message)
