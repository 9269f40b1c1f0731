"""`/v1/inbox`: a user reads what came, and says what was seen, read and archived."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from notifyd.delivery.signal import MAX_IDS, SignalSink
from notifyd.http.reads import Parameters, Reads, from_token, read_model, to_token, wrong_body
from notifyd.log import get_logger
from notifyd.message.envelope import public_of
from notifyd.push.auth import Identity
from notifyd.push.requests import Browsers
from notifyd.settings import Settings
from notifyd.store.cipher import ContentKeyError
from notifyd.store.inbox import TOP, Filter, InboxRow, read_originals, read_page
from notifyd.store.life import time_text
from notifyd.store.pool import Database
from notifyd.store.reading import Change, Marked, mark_ids, mark_up_to, read_unread

PATH: Final = "/v1/inbox"
CHANGES: Final[tuple[Change, ...]] = ("seen", "read", "archived")

#: Keys that are missing, of which the log is told.
_MOST_TOLD: Final = 100
#: Rows that one request with `upTo` changes; it is told where to go on.
MAX_MARKED: Final = 5_000

_log = get_logger(component="api")


class Marks(BaseModel):
    """What is to be marked: messages by their ids, or one place in the inbox and all below it."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    ids: Annotated[list[uuid.UUID], Field(min_length=1, max_length=MAX_IDS)] | None = None
    up_to: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="A token out of a page: `upTo` of its top, or `next` of its end."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.ids is None) == (self.up_to is None):
            raise ValueError("give either ids or upTo")
        return self


class InboxRoutes:
    """The routes of an inbox. What was committed is told to the user's other devices."""

    def __init__(self, reads: Reads, signals: SignalSink, settings: Settings) -> None:
        self._reads = reads
        self._signals = signals
        self._body_timeout_s = settings.api_body_timeout_s
        self._pod = settings.pod_name
        self._sealed: set[tuple[str, str]] = set()

    def add(self, app: web.Application, browsers: Browsers) -> None:
        """Serve them."""
        reads = self._reads
        browsers.add(app, "GET", PATH, reads.route(PATH, self._page))
        browsers.add(app, "GET", f"{PATH}/unread", reads.route(f"{PATH}/unread", self._unread))
        for change in CHANGES:
            path = f"{PATH}/{change}"
            browsers.add(app, "POST", path, reads.route(path, self._marker(change)))

    async def _page(self, request: web.Request, identity: Identity) -> Any:
        user = identity.user
        given = Parameters(request, ("limit", "after", "unread", "type", "archived"))
        limit = given.limit()
        after = given.token("after", lambda text: from_token(user, text))
        lacks = "read" if given.flag("unread") else ""
        only = Filter(is_archived=given.flag("archived"), lacks=lacks, type=given.text("type"))
        given.check()

        async def read(database: Database) -> Any:
            page = await read_page(database, user, limit=limit, before=after or TOP, only=only)
            originals = await read_originals(database, page.rows)
            rows = [row for row in page.rows if row.message_id in originals]
            return {
                "messages": [self._shown(row, originals[row.message_id]) for row in rows],
                "next": None if page.next is None else to_token(user, page.next),
                "upTo": to_token(user, page.rows[0].position) if page.rows else None,
            }

        return await self._reads.run(read)

    def _shown(self, row: InboxRow, original: bytes | ContentKeyError) -> Mapping[str, Any]:
        error: Mapping[str, str] | None = None
        if isinstance(original, ContentKeyError):
            self._tell(original)
            # By its id it can be marked, and is known to be there.
            message: Any = {"UUID": row.message_id, "content": {}}
            error = {"code": original.reason, "detail": "the message is kept, and cannot be opened for now"}
        else:
            message = msgspec.Raw(public_of(original, row.message_id))
        return {
            "message": message,
            "arrivedAt": time_text(row.arrived_at),
            "seenAt": time_text(row.seen_at),
            "readAt": time_text(row.read_at),
            "archivedAt": time_text(row.archived_at),
            "error": error,
        }

    def _tell(self, error: ContentKeyError) -> None:
        told = error.key_id, error.reason
        if told not in self._sealed and len(self._sealed) < _MOST_TOLD:  # once a process, however many read
            self._sealed.add(told)
            _log.error("content_sealed", key_id=error.key_id, reason=error.reason, error=str(error))

    async def _unread(self, request: web.Request, identity: Identity) -> Any:
        Parameters(request, ()).check()
        return {"unread": await self._reads.run(lambda database: read_unread(database, identity.user))}

    def _marker(self, change: Change) -> Any:
        async def mark(request: web.Request, identity: Identity) -> Any:
            Parameters(request, ()).check()
            marks = await read_model(request, Marks, self._body_timeout_s, code="invalid_marks")
            user = identity.user
            if marks.up_to is not None:
                position = from_token(user, marks.up_to)
                if position is None:
                    raise wrong_body(
                        "invalid_marks", {"pointer": "/upTo", "detail": "is no token of these pages"}
                    )
                work = lambda database: mark_up_to(  # noqa: E731
                    database, user, change, position, self._pod, limit=MAX_MARKED
                )
            else:
                ids = [str(one) for one in marks.ids or ()]
                work = lambda database: mark_ids(database, user, change, ids, pod=self._pod)  # noqa: E731
            return self._told(user, change, await self._reads.run(work))

        return mark

    def _told(self, user: str, change: Change, marked: Marked) -> Mapping[str, Any]:
        for start in range(0, len(marked.ids), MAX_IDS):
            self._signals.post(user, change, marked.ids[start : start + MAX_IDS], "")
        following = None if marked.next is None else to_token(user, marked.next)
        return {"changed": marked.ids, "unread": marked.unread, "next": following}
