"""`/v1/contacts/{user}`: where a user is reached, for backends that do not speak Kafka (`notify:ops`)."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from notifyd.delivery.contact import read_contact
from notifyd.errors import InvalidMessage, NotifydError, TransientError
from notifyd.http.pointers import Pointers
from notifyd.http.reads import OPS, Parameters, Reads, is_storable
from notifyd.push.auth import Identity
from notifyd.push.requests import Browsers, Refusal, read_json, try_later
from notifyd.settings import Settings
from notifyd.stream.contact_lookup import HIDDEN, find_contact, show_contact
from notifyd.stream.contact_marks import removal_records
from notifyd.stream.producer import Producer
from notifyd.stream.records import OutRecord

PATH: Final = "/v1/contacts/{user}"
#: Each reads a partition of the topic from its start.
_MOST_LOOKING: Final = 4
_RETRY_AFTER_S: Final = 2


class ContactRoutes:
    """Reads and writes contacts; a write is answered once Kafka has it."""

    def __init__(self, reads: Reads, producer: Producer, settings: Settings, *, topic: str) -> None:
        self._reads = reads
        self._producer = producer
        self._settings = settings
        self._topic = topic
        self._looking = 0

    def add(self, app: web.Application, browsers: Browsers) -> None:
        """Serve them."""
        for method, answer in (("GET", self._show), ("PUT", self._set), ("DELETE", self._remove)):
            browsers.add(app, method, PATH, self._reads.route(PATH, answer, scope=OPS))

    async def _show(self, request: web.Request, identity: Identity) -> Any:
        user = self._user(request)
        if self._looking >= _MOST_LOOKING:
            raise Refusal(
                429, "overloaded", "too many contacts are being looked up", headers={"Retry-After": "1"}
            )
        self._looking += 1
        try:
            async with asyncio.timeout(self._settings.api_read_timeout_s):
                found = await find_contact(self._settings, user)
        except TimeoutError:
            raise try_later("contacts_slow", "the topic was not read in time", _RETRY_AFTER_S) from None
        except NotifydError as error:
            raise _failed(error) from None
        finally:
            self._looking -= 1
        if found is None:
            raise Refusal(404, "not_found", "there is no contact of this user")
        value, gone = found
        return show_contact(value, gone)

    async def _set(self, request: web.Request, identity: Identity) -> Any:
        user = self._user(request)
        value = await read_json(request, self._settings.api_body_timeout_s)
        try:
            read_contact(value, user, where="contact", reason="bad_contact")
        except InvalidMessage as error:
            pointer = Pointers(value).find(error.field.removeprefix("contact").removeprefix("."))
            raise Refusal(
                422,
                "bad_contact",
                "the contact is wrong, see errors",
                errors=[{"pointer": pointer, "detail": error.message}],
            ) from None
        if HIDDEN.encode() in value:
            detail = f"it has {HIDDEN!r} from an answer to GET where a secret or key was: send the real one"
            raise Refusal(422, "bad_contact", detail)
        return await self._write(user, [OutRecord(self._topic, value, key=user.encode())])

    async def _remove(self, request: web.Request, identity: Identity) -> Any:
        user = self._user(request)
        try:
            partitions = range(await self._producer.partitions(self._topic))
        except NotifydError as error:
            raise _failed(error) from None
        return await self._write(user, removal_records(self._topic, user, partitions))

    async def _write(self, user: str, records: list[OutRecord]) -> Any:
        for result in await self._producer.send_each(records, timeout_s=self._settings.api_confirm_timeout_s):
            if isinstance(result, NotifydError):
                raise _failed(result)
        return {"user": user, "ok": True}

    def _user(self, request: web.Request) -> str:
        Parameters(request, ()).check()
        user = request.match_info["user"]
        most = self._settings.message_max_user_id_chars
        if not 0 < len(user) <= most or not is_storable(user):
            raise Refusal(400, "bad_user_id", f"a user id has 1 to {most} characters and no NUL")
        return user


def _failed(error: NotifydError) -> Refusal:
    if isinstance(error, TransientError):
        return try_later(error.reason, "Kafka did not answer in time; repeat it", _RETRY_AFTER_S)
    return Refusal(500, error.reason, str(error))
