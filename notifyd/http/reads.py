"""What all reading routes share: who asks, the database behind a limit of time, parameters, page tokens.

Without the database they answer 503, and all else goes on: nothing but these routes needs it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from pydantic import BaseModel, ValidationError

from notifyd.errors import ConfigError, NotifydError, TransientError
from notifyd.log import get_logger
from notifyd.message.times import parse_duration_s
from notifyd.metrics import Metrics
from notifyd.push.auth import Identity, PermissionDenied, TokenVerifier
from notifyd.push.requests import Handler, Refusal, identify, read_json, try_later, unauthorised
from notifyd.settings import Settings
from notifyd.store.cipher import ContentKeyError
from notifyd.store.inbox import Position
from notifyd.store.pool import Database

OPS: Final = "notify:ops"
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100

_MAX_FAULTS: Final = 100
#: Requests of a process that wait for the database; its connections are far fewer.
_MAX_WAITING: Final = 500
#: Reasons that are told as `database_slow`: it is there, and has no time for this.
_SLOW: Final = frozenset({"statement_timeout", "database_locked"})
#: Of what is asked for while the database is away.
_RETRY_AFTER_S: Final = 2
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_LATEST: Final = dt.datetime(9999, 12, 30, tzinfo=dt.UTC)

_log = get_logger(component="api")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Reads:
    """Runs what reads: `route` makes a handler of it that never raises."""

    def __init__(self, settings: Settings, metrics: Metrics, verifier: TokenVerifier) -> None:
        self._limit_s = settings.api_read_timeout_s
        self._metrics = metrics
        self._verifier = verifier
        self._waiting = 0
        self._is_away = False
        # A statement that takes longer than the answer may is nobody's any more.
        bounded = settings.model_copy(update={"database_statement_timeout_s": self._limit_s})
        self._database = (
            None
            if settings.database_url is None
            else Database(bounded, metrics, application=f"notifyd-api-{settings.pod_name}"[:63])
        )

    async def stop(self) -> None:
        """Close the connections."""
        if self._database is not None:
            await self._database.stop()

    def route(
        self,
        path: str,
        answer: Callable[[web.Request, Identity], Awaitable[Any]],
        *,
        scope: str | None = None,
    ) -> Handler:
        """Make a handler that answers what `answer` returns as JSON. `path` as metrics name it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            began = time.monotonic()
            try:
                identity = await identify(self._verifier, request)
                if not is_storable(identity.user):
                    raise unauthorised("the token's `sub` is no user id")
                if scope is not None:
                    require(identity, scope)
                body = await answer(request, identity)
                response = web.Response(
                    body=msgspec.json.encode(body),
                    content_type="application/json",
                    headers={"Cache-Control": "no-store"},
                )
            except Refusal as refusal:
                response = refusal.response()
                if not request.content.at_eof():
                    response.force_close()
            self._metrics.api_requests.labels(path, str(response.status)).inc()
            self._metrics.api_seconds.labels(path).observe(time.monotonic() - began)
            return response

        return handle

    async def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Run `work` on the database within the limit of time; raises `Refusal` (429, 503)."""
        if self._database is None:
            raise try_later("no_database", "this process has no database (NOTIFYD_DATABASE_URL)", 60)
        if self._waiting >= _MAX_WAITING:
            raise Refusal(
                429, "overloaded", "too many requests wait for the database", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limit_s):
                result = await work(self._database)
        except TimeoutError:
            detail = f"the database did not answer within {self._limit_s:g} s; ask for less, or later"
            raise try_later("database_slow", detail, _RETRY_AFTER_S) from None
        except (TransientError, ConfigError) as error:
            raise self._away(error) from None
        finally:
            self._waiting -= 1
        self._is_away = False
        return result

    def _away(self, error: NotifydError) -> Refusal:
        if not self._is_away:  # once, however many ask
            self._is_away = True
            _log.warning("reads_refused", reason=error.reason, detail=str(error))
        if isinstance(error, ContentKeyError):
            return try_later(error.reason, "a message cannot be opened: this process lacks its key", 60)
        # Where the database is and what it said is for the log.
        if error.reason in _SLOW:
            return try_later("database_slow", "the database took too long; ask for less", _RETRY_AFTER_S)
        return try_later(error.reason, "the database cannot be read for now", _RETRY_AFTER_S)


async def read_model(request: web.Request, model: type[M], limit_s: float, *, code: str) -> M:
    """Read the body of a small request as a model; raises `Refusal`: `code` (422) names each wrong field."""
    body = await read_json(request, limit_s)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        raise Refusal(400, "not_json", faults[0]["msg"])
    raise wrong_body(
        code,
        *(
            {
                "pointer": "".join(f"/{_escaped(part)}" for part in fault["loc"]),
                "detail": fault["msg"].removeprefix("Value error, "),
            }
            for fault in faults[:_MAX_FAULTS]
        ),
    )


def _escaped(part: int | str) -> str:
    # RFC 6901; a name that nobody knows is as long as its sender likes.
    return str(part)[:64].replace("~", "~0").replace("/", "~1")


def wrong_body(code: str, *errors: Mapping[str, str]) -> Refusal:
    """Make the refusal (422) of a body whose fields are wrong."""
    return Refusal(422, code, "the body is wrong, see errors", errors=errors)


def require(identity: Identity, scope: str) -> None:
    """Raise `Refusal` (403) where the token lacks a scope."""
    try:
        identity.require(scope)
    except PermissionDenied as error:
        challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
        raise Refusal(403, error.reason, error.message, headers={"WWW-Authenticate": challenge}) from None


class Parameters:
    """The query of a request. Every fault is collected; `check` raises them together (400)."""

    def __init__(self, request: web.Request, names: Collection[str]) -> None:
        self._query: Mapping[str, str] = request.query
        self._faults: list[dict[str, str]] = []
        for name in self._query:
            if name not in names:
                self._fault(name, "is not known here; there are " + ", ".join(names))
            elif len(request.query.getall(name)) > 1:
                self._fault(name, "is there more than once")

    def text(self, name: str, *, max_chars: int = 256) -> str | None:
        """Read a text; None where it is absent."""
        value = self._query.get(name)
        if value is not None and (not 0 < len(value) <= max_chars or not is_storable(value)):
            self._fault(name, f"must have 1 to {max_chars} characters, none of them NUL")
            return None
        return value

    def limit(self) -> int:
        """Read how many are asked for."""
        value = self._query.get("limit", str(DEFAULT_LIMIT))
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= MAX_LIMIT):
            self._fault("limit", f"must be a number from 1 to {MAX_LIMIT}")
            return DEFAULT_LIMIT
        return int(value)

    def flag(self, name: str) -> bool:
        """Read `true` or `false`; absent is false."""
        value = self._query.get(name, "false")
        if value not in ("true", "false"):
            self._fault(name, "must be true or false")
        return value == "true"

    def one_of(self, name: str, values: Collection[str]) -> str | None:
        """Read one of some words; None where it is absent."""
        value = self._query.get(name)
        if value is not None and value not in values:
            self._fault(name, "must be one of " + ", ".join(values))
            return None
        return value

    def span(self, name: str, default: str) -> float:
        """Read a span of time, as `90s`, `15m` or `1h30m`, in seconds."""
        seconds = parse_duration_s(self._query.get(name, default))
        if seconds is None:
            self._fault(name, "must be a span of time, as 90s, 15m or 1h30m")
            return 0.0
        return seconds

    def moment(self, name: str) -> dt.datetime | None:
        """Read a day or an RFC 3339 time (UTC without an offset); None where it is absent."""
        value = self._query.get(name)
        if value is None:
            return None
        try:
            at = dt.datetime.fromisoformat(value)
            at = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            self._fault(name, "must be a day or a time, as 2026-11-23 or 2026-11-23T10:00:00Z")
            return None
        return at

    def token(self, name: str, read: Callable[[str], T | None]) -> T | None:
        """Read a page token with `read`, which knows its own; None where it is absent."""
        value = self._query.get(name)
        if value is None:
            return None
        found = read(value)
        if found is None:
            self._fault(name, "is no token of these pages")
        return found

    def check(self) -> None:
        """Raise `Refusal` (400) that names every fault."""
        if self._faults:
            raise Refusal(400, "bad_parameter", "the query is wrong, see errors", errors=self._faults)

    def _fault(self, name: str, detail: str) -> None:
        self._faults.append({"parameter": name[:64], "detail": detail})


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can be asked for this text: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def to_token(user: str, position: Position) -> str:
    """Write a position in a user's list as clients keep it: opaque, and no other user's."""
    at_us = (position.at - _EPOCH) // _MICROSECOND
    body = b"\1" + at_us.to_bytes(8, "big", signed=True) + uuid.UUID(position.message_id).bytes
    return base64.urlsafe_b64encode(body + _tag(user, body)).decode().rstrip("=")


def from_token(user: str, text: str) -> Position | None:
    """Read a position; None for garbage, and for the token of another user."""
    body, tag = _unpack(text, 1 + 8 + 16)
    if body[:1] != b"\1" or tag != _tag(user, body):
        return None
    try:
        at = _EPOCH + int.from_bytes(body[1:9], "big", signed=True) * _MICROSECOND
    except OverflowError:
        return None
    return Position(at, str(uuid.UUID(bytes=body[9:]))) if _EPOCH <= at < _LATEST else None


def _unpack(text: str, size: int) -> tuple[bytes, bytes]:
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b"", b""
    return (whole[:size], whole[size:]) if len(whole) == size + 6 else (b"", b"")


def _tag(user: str, body: bytes) -> bytes:
    # No secret: a page is always of the user who asks. It finds tokens that were mixed up.
    return hashlib.blake2b(user.encode() + b"\0" + body, digest_size=6).digest()
