"""`POST /v1/ack`: acks of who receives by server-sent events, or has no connection at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from notifyd.push.auth import TokenVerifier
from notifyd.push.hub import Hub
from notifyd.push.peer import Frame, State
from notifyd.push.protocol import MAX_IDS, STAGE_OF, CloseCode, Mark, MarkOp
from notifyd.push.receipts import MAX_UNCONFIRMED, MAX_WAITING
from notifyd.push.requests import Refusal, identify, read_json, try_later

PATH: Final = "/v1/ack"
#: A body that is not here by then is not coming.
_BODY_S: Final = 10.0
#: How long an answer waits for the broker. What it has not taken by then is withdrawn where possible.
_CONFIRM_S: Final = 5.0
_MAX_ID_CHARS: Final = 64
#: Errors that one answer names.
_MAX_ERRORS: Final = 20


class Posted:
    """One request, as receipts see who acknowledges: it waits for an `ok` to each of its marks."""

    def __init__(self, user: str, session: str, count: int) -> None:
        self.state = State.OPEN
        self.user = user
        self.session = session
        self.unconfirmed = 0
        self._left = count
        self._answered = asyncio.get_running_loop().create_future()
        #: By op, what is durable; and over all of them, what was refused.
        self.confirmed: dict[str, list[str]] = {}
        self.refused: list[str] = []

    async def wait(self, limit_s: float) -> bool:
        """Wait until all is answered; False where that took too long or cannot be."""
        try:
            async with asyncio.timeout(limit_s):
                await self._answered
        except TimeoutError:
            return False
        finally:
            self.state = State.CLOSED
        return self._left == 0

    def send(self, frame: Frame) -> bool:
        """Take an `ok`."""
        if self.state is not State.OPEN:
            return False
        ok = msgspec.json.decode(frame.payload)
        for op in STAGE_OF:
            if op in ok:
                self.confirmed[op] = ok[op]
                self.refused += ok.get("refused", ())
                self._left -= 1
        if not self._left:
            self._end()
        return True

    def close(self, code: CloseCode, detail: str = "") -> None:
        """Note that no answer will come."""
        self._end()

    def hold(self) -> None:
        """Do nothing: a request says only what it says."""

    def release(self) -> None:
        """Do nothing, as `hold`."""

    def _end(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)


class AckDoor:
    """Takes posted acks, as many ids of a user at a time as one connection may have unconfirmed."""

    def __init__(self, hub: Hub, verifier: TokenVerifier) -> None:
        self._hub = hub
        self._verifier = verifier
        self._waiting: dict[str, int] = {}

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Answer once Kafka has the events; raises `Refusal`."""
        self._check_open()
        identity = await identify(self._verifier, request)
        session, marks = read_marks(await read_json(request, _BODY_S))
        # Reading took time.
        self._check_open()
        count = sum(len(mark.ids) for mark in marks)
        waiting = self._waiting.get(identity.user, 0)
        if waiting + count > MAX_UNCONFIRMED:
            detail = f"{waiting} ids of this user are still being confirmed"
            raise Refusal(429, "too_many_acks", detail, headers={"Retry-After": "1"})
        self._waiting[identity.user] = waiting + count
        try:
            return await self._confirm(Posted(identity.user, session, len(marks)), marks)
        finally:
            self._waiting[identity.user] -= count
            if not self._waiting[identity.user]:
                del self._waiting[identity.user]

    async def _confirm(self, posted: Posted, marks: list[Mark]) -> web.StreamResponse:
        try:
            for mark in marks:
                self._hub.take_posted(posted, mark)
            is_confirmed = await posted.wait(_CONFIRM_S)
        finally:
            # Else what nobody waits for any more would pile up while the broker is away.
            self._hub.withdraw(posted)
        if not is_confirmed:
            raise try_later("unconfirmed", "the broker has not confirmed this; send it again", after_s=5)
        return web.json_response(
            {"ok": posted.confirmed, "refused": posted.refused}, headers={"Cache-Control": "no-store"}
        )

    def _check_open(self) -> None:
        # Until the window of a drain is over: who has a stream here may have a connection here for its acks.
        if not self._hub.takes_acks:
            raise try_later("going_away", "this process is going away")
        if self._hub.unconfirmed_acks > MAX_WAITING:
            raise try_later("overloaded", "too many acks wait for the broker", after_s=5)


def read_marks(body: bytes) -> tuple[str, list[Mark]]:
    """Read `{"ack": [ids], "seen": [ids], "read": [ids]}`, at least one of them, and whose `session` it is.

    That is "" where none is named. Other names are ignored. Raises `Refusal` (400) with a pointer to each
    wrong part.
    """
    try:
        parsed: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refusal(400, "bad_json", f"the body is no JSON: {error}"[:200]) from None
    if not isinstance(parsed, dict):
        raise _bad_body([{"pointer": "", "detail": "is no object"}])
    marks, errors = [], []
    for op in STAGE_OF:
        if op in parsed:
            found = _faults_of(op, parsed[op])
            errors += found
            if not found:
                marks.append(Mark(cast("MarkOp", op), parsed[op]))
    session = parsed.get("session", "")
    if not isinstance(session, str) or len(session) > _MAX_ID_CHARS:
        errors.append({"pointer": "/session", "detail": "is no session of a welcome"})
    if errors:
        raise _bad_body(errors)
    if not marks:
        raise _bad_body([{"pointer": "", "detail": f"names none of {', '.join(STAGE_OF)}"}])
    return session, marks


def _faults_of(op: str, ids: Any) -> list[Mapping[str, str]]:
    if not isinstance(ids, list):
        return [{"pointer": f"/{op}", "detail": "is no list of ids"}]
    if not 0 < len(ids) <= MAX_IDS:
        return [{"pointer": f"/{op}", "detail": f"has {len(ids)} ids; 1 to {MAX_IDS} are taken"}]
    return [
        {"pointer": f"/{op}/{index}", "detail": f"is no text of at most {_MAX_ID_CHARS} characters"}
        for index, text in enumerate(ids)
        if not isinstance(text, str) or len(text) > _MAX_ID_CHARS
    ]


def _bad_body(errors: list[Mapping[str, str]]) -> Refusal:
    return Refusal(400, "bad_body", "the body names no acks as they are to be", errors=errors[:_MAX_ERRORS])
