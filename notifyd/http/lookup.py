"""`/v1/messages` and `/v1/deliveries`: the life of one message, and what an operator looks for."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import uuid
from typing import Any, Final

from aiohttp import web

from notifyd.http.reads import OPS, Parameters, Reads
from notifyd.message.ids import is_uuid
from notifyd.push.auth import Identity
from notifyd.push.requests import Browsers, Refusal
from notifyd.store.deliveries import find_slowest, find_stuck
from notifyd.store.inbox import TOP, Position
from notifyd.store.life import time_text
from notifyd.store.search import STATES, Found, Search, search_messages
from notifyd.store.trace import read_life

PATH: Final = "/v1/messages"
ONE_PATH: Final = "/v1/messages/{id}"
STUCK_PATH: Final = "/v1/deliveries/stuck"
SLOWEST_PATH: Final = "/v1/deliveries/slowest"
#: What is asked for where the query does not say.
SILENT: Final = "5m"
SINCE: Final = "1h"
_NAMES: Final = ("limit", "after", "user", "sender", "type", "state", "from", "to")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_LAST_DAY: Final = dt.date(9999, 12, 1).toordinal()


class LookupRoutes:
    """Reads of messages, whoever they were for (`notify:ops`), or the caller's own part of one."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def add(self, app: web.Application, browsers: Browsers) -> None:
        """Serve them."""
        browsers.add(app, "GET", PATH, self._reads.route(PATH, self._search, scope=OPS))
        browsers.add(app, "GET", ONE_PATH, self._reads.route(ONE_PATH, self._one))
        browsers.add(app, "GET", STUCK_PATH, self._reads.route(STUCK_PATH, self._stuck, scope=OPS))
        browsers.add(app, "GET", SLOWEST_PATH, self._reads.route(SLOWEST_PATH, self._slowest, scope=OPS))

    async def _one(self, request: web.Request, identity: Identity) -> Any:
        Parameters(request, ()).check()
        message_id = request.match_info["id"]
        if not is_uuid(message_id):
            raise Refusal(404, "not_found", "this is no UUID")
        user = None if OPS in identity.scopes else identity.user
        life = await self._reads.run(lambda database: read_life(database, message_id, user=user))
        if life is None:
            raise Refusal(404, "not_found", "no message of this id was seen, or it is not for you")
        shown = life.as_json()
        if user is not None:
            _hide(shown)
        return shown

    async def _search(self, request: web.Request, identity: Identity) -> Any:
        given = Parameters(request, _NAMES)
        limit = given.limit()
        after = given.token("after", _from_token)
        search = Search(
            user=given.text("user"),
            sender=given.text("sender"),
            type=given.text("type"),
            state=given.one_of("state", STATES),
            since=given.moment("from"),
            until=given.moment("to"),
        )
        given.check()
        page = await self._reads.run(
            lambda database: search_messages(database, search, limit=limit, before=after)
        )
        return {
            "messages": [_shown(found) for found in page.messages],
            "next": None if page.next is None else _to_token(*page.next),
        }

    async def _stuck(self, request: web.Request, identity: Identity) -> Any:
        given = Parameters(request, ("limit", "olderThan"))
        limit, silent_s = given.limit(), given.span("olderThan", SILENT)
        given.check()
        found = await self._reads.run(lambda database: find_stuck(database, silent_s=silent_s, limit=limit))
        return found.as_json()

    async def _slowest(self, request: web.Request, identity: Identity) -> Any:
        given = Parameters(request, ("limit", "since"))
        limit, since_s = given.limit(), given.span("since", SINCE)
        given.check()
        since = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=since_s)
        found = await self._reads.run(lambda database: find_slowest(database, since=since, limit=limit))
        return found.as_json()


def _hide(shown: dict[str, Any]) -> None:
    """Leave out what is not the user's: the other recipients, and our processes with their words."""
    if shown["envelope"] is not None:
        shown["envelope"].pop("toUserIds", None)
    for part in (shown, *shown["deliveries"]):
        for event in part["events"]:
            event["pod"] = event["detail"] = None


def _shown(found: Found) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "from": found.sender,
        "createBy": found.created_by,
        "type": found.type or None,
        "acceptedAt": time_text(found.accepted_at),
        "notBefore": time_text(found.due_at),
        "expiresAt": time_text(found.expires_at),
        "position": f"{found.partition}:{found.offset}",
    }


def _to_token(day: dt.date, place: Position) -> str:
    at_us = (place.at - _EPOCH) // _MICROSECOND
    body = b"\2" + day.toordinal().to_bytes(4, "big") + at_us.to_bytes(8, "big", signed=True)
    return base64.urlsafe_b64encode(body + uuid.UUID(place.message_id).bytes).decode().rstrip("=")


def _from_token(text: str) -> tuple[dt.date, Position] | None:
    try:
        body = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        day, at_us = int.from_bytes(body[1:5], "big"), int.from_bytes(body[5:13], "big", signed=True)
        if len(body) != 29 or body[0] != 2 or not 0 < day < _LAST_DAY or at_us < 0:
            return None
        at = min(_EPOCH + at_us * _MICROSECOND, TOP.at)
        return dt.date.fromordinal(day), Position(at, str(uuid.UUID(bytes=body[13:])))
    except (binascii.Error, ValueError, OverflowError):
        return None
