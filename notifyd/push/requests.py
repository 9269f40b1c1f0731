"""HTTP requests of push clients: from which page and from whom, and what one that is refused is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from notifyd.push.auth import Identity, KeysUnavailable, PermissionDenied, TokenVerifier

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What a page of a listed origin may send with a request, and read of an answer.
_CORS_METHODS: Final = "GET, POST"
_CORS_HEADERS: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent"
_CORS_EXPOSED: Final = "Retry-After"
#: How long a browser need not ask again, in seconds.
_CORS_MAX_AGE_S: Final = 600

#: Of what is no message: 500 ids three times over in JSON are 59 KB.
MAX_BODY_BYTES: Final = 64 * 1024

#: Answers to requests whose body was not read to its end: the connection is of no use after them.
_UNREAD: Final = frozenset((408, 413))


class OriginList:
    """The origins that browsers may connect from. Who sends no `Origin` is no browser."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._takes_any = "*" in origins
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def allows(self, origin: str | None) -> bool:
        """Whether a request with this `Origin` header may connect."""
        return origin is None or self._takes_any or origin.lower() in self._origins


class Refusal(Exception):
    """An answer other than 200, as problem details (RFC 9457).

    `code` is a stable word for programs, `detail` is for people, `errors` name each wrong part:
    `{"pointer": "/ack/0", ...}` in a body, `{"parameter": "at", ...}` in a query, with a `detail` each;
    `extra` are further members.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def response(self) -> web.Response:
        """Return it as aiohttp sends it."""
        body: dict[str, Any] = {
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        body.update(self.extra)
        response = web.Response(
            body=msgspec.json.encode(body),
            status=self.status,
            headers={"Cache-Control": "no-store", **self.headers},
            content_type="application/problem+json",
        )
        if self.status in _UNREAD:
            response.force_close()
        return response


def bearer_of(request: web.BaseRequest) -> str | None:
    """Return the token of an `Authorization: Bearer` header."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


async def identify(verifier: TokenVerifier, request: web.BaseRequest) -> Identity:
    """Return who sends a request, by its bearer token; raises `Refusal` (401, or 503 without keys)."""
    token = bearer_of(request)
    if token is None:
        raise unauthorised("an `Authorization: Bearer` header with a token is needed")
    try:
        return await verifier.authenticate(token)
    except PermissionDenied as error:
        raise unauthorised(error.message) from None
    except KeysUnavailable as error:
        raise try_later("try_later", error.message) from None


def unauthorised(detail: str) -> Refusal:
    """Make the refusal of one who is not known."""
    return Refusal(401, "unauthorised", detail, headers={"WWW-Authenticate": "Bearer"})


def try_later(code: str, detail: str, after_s: int = 1) -> Refusal:
    """Make the refusal that ends by itself."""
    return Refusal(503, code, detail, headers={"Retry-After": str(after_s)})


class Browsers:
    """What lets pages of the listed origins, and no others, use a route (CORS, without credentials)."""

    def __init__(self, origins: OriginList) -> None:
        self._origins = origins
        self._preflights: set[str] = set()

    def add(self, app: web.Application, method: str, path: str, handler: Handler) -> None:
        """Serve `handler` at `path`; what it refuses becomes an answer that the page may read."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self.check(request)
                response = await handler(request)
            except Refusal as refusal:
                response = refusal.response()
            if not response.prepared:
                response.headers.update(self.headers(request))
            return response

        async def preflight(request: web.Request) -> web.StreamResponse:
            try:
                self.check(request)
            except Refusal as refusal:
                return refusal.response()
            return web.Response(
                status=204,
                headers={
                    **self.headers(request),
                    "Access-Control-Allow-Methods": _CORS_METHODS,
                    "Access-Control-Allow-Headers": _CORS_HEADERS,
                    "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
                },
            )

        app.router.add_route(method, path, handle)
        if path not in self._preflights:
            self._preflights.add(path)
            app.router.add_route("OPTIONS", path, preflight)

    def check(self, request: web.BaseRequest) -> None:
        """Raise `Refusal` (403) for a page of another origin."""
        if not self._origins.allows(request.headers.get("Origin")):
            raise Refusal(403, "origin_refused", "this origin is not on NOTIFYD_WS_ORIGINS")

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the CORS headers of an answer."""
        origin = request.headers.get("Origin")
        if origin is None or not self._origins.allows(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _CORS_EXPOSED,
        }


async def read_json(request: web.Request, limit_s: float) -> bytes:
    """Read the body of a small request, `MAX_BODY_BYTES` at most; raises `Refusal` (400, 408, 413, 415)."""
    if request.content_type != "application/json":
        raise Refusal(415, "media_type", "send JSON: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Refusal(
                        413, "too_large", f"a body has {MAX_BODY_BYTES} bytes at most; send several"
                    )
    except TimeoutError:
        raise Refusal(408, "body_timeout", f"the body did not arrive within {limit_s:g} s") from None
    except web.RequestPayloadError as error:
        raise Refusal(400, "bad_body", f"the body broke off: {error}") from None
    return bytes(body)
