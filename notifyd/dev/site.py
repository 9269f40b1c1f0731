"""What `notifyd dev` serves beside its roles: the inbox and the trace page, and the tokens that they need.

A process that runs roles in production never loads this module.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import time
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from notifyd.errors import ConfigError
from notifyd.http.pages import add_page_routes
from notifyd.push.auth import issue_token
from notifyd.settings import Settings

TOKEN_PATH: Final = "/dev/token"
_TOKEN_TTL_S: Final = 86_400.0
_MAX_BODY_BYTES: Final = 4096
#: By these names alone: a page elsewhere whose name was made to lead here (DNS rebinding) has another.
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT: Final = re.compile(r":\d+$", re.ASCII)


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    operator: bool = False


def add_dev_site(app: web.Application, settings: Settings) -> None:
    """Serve the inbox page at `/`, that of a message's life at `/trace/UUID`, and `POST /dev/token` for them.

    `{"user": "alice"}` is answered by `{"token", "expires_at"}`: whoever asks is whoever they say, with the
    scope `notify:send`, and `"operator": true` adds `notify:ops`. So it answers this machine alone, and only
    to pages that came from it.
    """
    app.router.add_post(TOKEN_PATH, partial(_give_token, settings))
    add_page_routes(app)


async def _give_token(settings: Settings, request: web.Request) -> web.Response:
    stranger = _what_is_foreign(request)
    if stranger:
        return _problem(403, "forbidden", f"{stranger}: this is for the pages on this machine alone")
    if request.content_type != "application/json":
        return _problem(415, "unsupported media type", 'send {"user": "alice"} as application/json')
    if request.content_length is None or request.content_length > _MAX_BODY_BYTES:
        return _problem(
            413, "content too large", f"at most {_MAX_BODY_BYTES} bytes, their number told before"
        )
    try:
        wanted = msgspec.json.decode(await request.read(), type=_Wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _problem(400, "bad request", f'send {{"user": "alice"}}: {error}')
    scopes = ("notify:send", "notify:ops") if wanted.operator else ("notify:send",)
    until = dt.datetime.fromtimestamp(int(time.time() + _TOKEN_TTL_S), dt.UTC)
    try:
        token = issue_token(settings, wanted.user, scopes, _TOKEN_TTL_S)
    except ConfigError as error:
        return _problem(422, "no token for this user", str(error))
    body = {"token": token, "expires_at": until.isoformat().replace("+00:00", "Z")}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _what_is_foreign(request: web.Request) -> str | None:
    """Say what keeps a request from being one of the page's own; None where it is."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin", "")
    if not _is_loopback(request.remote):
        return "the request comes from another machine"
    if _PORT.sub("", host).lower() not in _LOOPBACK_NAMES:
        return "this machine was called by another name than localhost"
    if origin.lower() != f"http://{host}".lower():
        return "the page comes from elsewhere"
    return None


def _is_loopback(address: str | None) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _problem(status: int, title: str, detail: str) -> web.Response:
    return web.json_response(
        {"title": title, "status": status, "detail": detail},
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )
