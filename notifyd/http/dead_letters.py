"""`/v1/dlq`: what could not be delivered, and what is to become of it (`notify:ops`).

What `notifyd dlq` does, for operators without a shell. No request goes on for longer than a proxy waits for
an answer, so that no work is lost with a process: each says how far it came, and where the next one goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from aiohttp import web

from notifyd.delivery.audit import Action, Handled, Place
from notifyd.errors import NotifydError, TransientError
from notifyd.http.dead_letter_orders import FILTERS, Discard, Progress, Replay, read_filters, read_progress
from notifyd.http.reads import OPS, Parameters, Reads, read_model, wrong_body
from notifyd.log import get_logger
from notifyd.push.auth import Identity
from notifyd.push.cursor import decode_place
from notifyd.push.requests import Browsers, Refusal, try_later
from notifyd.settings import Settings
from notifyd.store.audit import Audit
from notifyd.stream.dead_letter import DeadLetter, find_dead_letters, read_dead_letters
from notifyd.stream.dead_letter_view import COUNTED_BY, Count, describe, describe_whole, iso
from notifyd.stream.dead_letter_work import DeadLetterWork, Tally
from notifyd.stream.producer import Producer
from notifyd.stream.records import OutRecord, RecordPlace
from notifyd.stream.replay import Selection, names_in
from notifyd.stream.topics import Topics

PATH: Final = "/v1/dlq"
STATS_PATH: Final = f"{PATH}/stats"
ONE_PATH: Final = f"{PATH}/{{place}}"
#: Different names that one answer counts.
MAX_ROWS: Final = 1_000
#: What a replay or discard takes at most before it answers: a third of what proxies wait.
WORK_S: Final = 20.0

#: Each opens a consumer of its own, and holds what a broker sends it at a time.
_MOST_READING: Final = 4
#: Of how many letters the audit is asked at a time.
_ASKED_AT_ONCE: Final = 1_000
#: Places that are told of those that were refused for one reason.
_PLACES_TOLD: Final = 20
_RETRY_AFTER_S: Final = 2

_log = get_logger(component="api")


class _Trail:
    """The audit as the routes reach it: behind their limits, in their words."""

    def __init__(self, reads: Reads, incarnation: str) -> None:
        self._reads = reads
        self._incarnation = incarnation

    async def handled(self, places: Collection[Place]) -> set[Place]:
        return await self._reads.run(lambda database: Audit(database, self._incarnation).handled(places))

    async def entries(self, place: Place) -> list[dict[str, str]]:
        found = await self._reads.run(lambda database: Audit(database, self._incarnation).entries(*place))
        return [{"at": one.at, "actor": one.actor, "action": one.action} for one in found]

    async def write(self, letters: Sequence[Handled], *, actor: str, action: Action) -> None:
        await self._reads.run(
            lambda database: Audit(database, self._incarnation).write(letters, actor=actor, action=action)
        )


class DeadLetterRoutes:
    """Shows, counts, replays and discards dead letters."""

    def __init__(
        self,
        reads: Reads,
        producer: Producer,
        settings: Settings,
        *,
        topics: Topics,
        incarnation: str,
        work_s: float = WORK_S,
    ) -> None:
        self._reads = reads
        self._producer = producer
        self._settings = settings
        self._topics = topics
        self._incarnation = incarnation
        self._trail = _Trail(reads, incarnation)
        self._read_s = settings.api_read_timeout_s
        self._work_s = work_s
        self._reading = 0
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_at_work(self) -> bool:
        """Whether dead letters are being replayed or discarded."""
        return not self._idle.is_set()

    def add(self, app: web.Application, browsers: Browsers) -> None:
        """Serve them."""
        route = self._reads.route
        browsers.add(app, "GET", PATH, route(PATH, self._list, scope=OPS))
        browsers.add(app, "GET", STATS_PATH, route(STATS_PATH, self._stats, scope=OPS))
        for action, model in (("replay", Replay), ("discard", Discard)):
            path = f"{PATH}/{action}"
            browsers.add(app, "POST", path, route(path, self._worker(action, model), scope=OPS))  # type: ignore[arg-type]
        browsers.add(app, "GET", ONE_PATH, route(ONE_PATH, self._show, scope=OPS))

    def end(self) -> None:
        """Have what is at work answer with how far it came, after the batch at hand."""
        self._stopping.set()

    async def wait_idle(self, limit_s: float) -> None:
        """Return when nothing is at work any more, after `limit_s` seconds at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()

    async def _list(self, request: web.Request, identity: Identity) -> Any:
        given = Parameters(request, ("limit", "after", *FILTERS))
        limit = given.limit()
        selection, progress = self._asked(given)
        found: list[DeadLetter] = []
        passed: dict[int, int] = {}
        async with self._letters(selection, progress, self._read_s) as (
            letters,
            is_over,
        ):
            async for letter in letters:
                passed[letter.partition] = letter.offset + 1
                if selection.takes(letter):
                    found.append(letter)
                if len(found) == limit:
                    break
            is_cut = len(found) == limit or is_over()
        found.sort(key=lambda letter: (letter.timestamp_ms, letter.partition, letter.offset))
        return {
            "letters": [_listed(letter) for letter in found],
            "next": progress.token(self._incarnation, passed) if is_cut else None,
        }

    async def _stats(self, request: web.Request, identity: Identity) -> Any:
        given = Parameters(request, ("by", "after", *FILTERS))
        by = given.one_of("by", COUNTED_BY) or "reason"
        selection, progress = self._asked(given)
        count = Count(by)
        passed: dict[int, int] = {}
        can_tell = True

        async def settle() -> None:
            nonlocal can_tell
            handled: set[Place] | None = None
            if can_tell:
                try:
                    handled = await self._trail.handled(count.places)
                except Refusal:  # the letters are there without the database
                    can_tell = False
            count.settle(handled)

        async with self._letters(selection, progress, self._read_s) as (
            letters,
            is_over,
        ):
            async for letter in letters:
                passed[letter.partition] = letter.offset + 1
                if selection.takes(letter):
                    count.add(letter)
                if len(count.places) >= _ASKED_AT_ONCE:
                    await settle()
                if len(count) == MAX_ROWS:
                    break
            await settle()
            is_cut = len(count) == MAX_ROWS or is_over()
        return {
            "by": by,
            "rows": count.rows(),
            "next": progress.token(self._incarnation, passed) if is_cut else None,
        }

    async def _show(self, request: web.Request, identity: Identity) -> Any:
        Parameters(request, ()).check()
        text = request.match_info["place"]
        place = decode_place(text)
        found = [] if place is None else await self._find([place])
        if place is None or not found:
            raise Refusal(404, "not_found", "there is no dead letter at this place: PARTITION:OFFSET")
        audit = None
        with suppress(Refusal):
            audit = await self._trail.entries(place)
        _, sender = names_in(found[0])
        return {**describe_whole(found[0]), "sender": sender, "audit": audit}

    def _worker(self, action: Action, model: type[Discard]) -> Any:
        async def work(request: web.Request, identity: Identity) -> Any:
            Parameters(request, ()).check()
            order = await read_model(request, model, self._settings.api_body_timeout_s, code="invalid_order")
            if self.is_at_work:
                detail = "this process replays or discards dead letters already"
                raise Refusal(429, "overloaded", detail, headers={"Retry-After": "1"})
            self._idle.clear()
            try:
                return await self._work(action, order, identity.user)
            finally:
                self._idle.set()

        return work

    async def _work(self, action: Action, order: Discard, actor: str) -> Any:
        progress = Progress.begin() if order.after is None else read_progress(self._incarnation, order.after)
        if progress is None:
            raise wrong_body("invalid_order", {"pointer": "/after", "detail": "is no token of these pages"})
        selection = progress.narrow(Selection() if order.filter is None else order.filter.selection())
        work = DeadLetterWork(
            action,
            selection,
            topics=self._topics,
            audit=self._trail,
            send=self._send,
            limit=order.limit,
            rate=order.rate if isinstance(order, Replay) else float("inf"),
            again=isinstance(order, Replay) and order.again,
            pause=self._pause,
        )
        is_cut = True
        try:
            async with self._chosen(order, selection, progress, work.tally) as (letters, is_over):
                tally = await work.run(letters, actor=None if order.dry_run else actor)
                is_cut = tally.is_cut or is_over()
        except Refusal as refusal:
            refusal.extra.update(self._told(action, order, work.tally, progress, is_cut=is_cut))
            raise
        finally:
            if work.tally.done and not order.dry_run:
                _log.info("dead_letters_handled", action=action, actor=actor, letters=work.tally.done)
        return self._told(action, order, work.tally, progress, is_cut=is_cut)

    def _told(
        self, action: Action, order: Discard, tally: Tally, progress: Progress, *, is_cut: bool
    ) -> dict[str, Any]:
        goes_on = is_cut and order.filter is not None
        return {
            "action": action,
            "dryRun": order.dry_run,
            "done": tally.done,
            "before": tally.before,
            "refused": [
                {
                    "detail": why,
                    "letters": len(places),
                    "places": [f"{partition}:{offset}" for partition, offset in places[:_PLACES_TOLD]],
                }
                for why, places in tally.refused.items()
            ],
            "next": progress.token(self._incarnation, tally.passed) if goes_on else None,
        }

    async def _send(self, records: Sequence[OutRecord]) -> Sequence[RecordPlace | NotifydError]:
        return await self._producer.send_each(records, timeout_s=self._settings.api_confirm_timeout_s)

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    @asynccontextmanager
    async def _chosen(
        self, order: Discard, selection: Selection, progress: Progress, tally: Tally
    ) -> AsyncIterator[tuple[AsyncIterator[DeadLetter], Callable[[], bool]]]:
        """Give the letters that are meant, and whether the time is over."""
        if order.places is None:
            async with self._letters(selection, progress, self._work_s) as found:
                yield found
            return
        asked = {place for text in order.places if (place := decode_place(text)) is not None}
        letters = await self._find(asked)
        missing = asked - {(letter.partition, letter.offset) for letter in letters}
        if missing:
            tally.refused["there is no dead letter at this place"] = sorted(missing)
        async with self._room(self._work_s):
            yield _one_by_one(letters), lambda: False

    @asynccontextmanager
    async def _letters(
        self, selection: Selection, progress: Progress, limit_s: float
    ) -> AsyncIterator[tuple[AsyncGenerator[DeadLetter, None], Callable[[], bool]]]:
        """Read on for `limit_s` seconds; also give whether they are over."""
        deadline = time.monotonic() + limit_s

        def is_over() -> bool:
            return time.monotonic() >= deadline or self._stopping.is_set()

        async with self._room(limit_s):
            letters = read_dead_letters(
                self._settings,
                start=progress.offsets,
                since_ms=selection.since_ms,
                is_over=is_over,
            )
            async with aclosing(letters):
                yield letters, is_over

    def _asked(self, given: Parameters) -> tuple[Selection, Progress]:
        """Read what a query is about; raises `Refusal` for all that is wrong with it."""
        after = given.token("after", lambda text: read_progress(self._incarnation, text))
        selection = read_filters(given)
        given.check()
        progress = after or Progress.begin()
        return progress.narrow(selection), progress

    async def _find(self, places: Collection[Place]) -> list[DeadLetter]:
        async with self._room(self._read_s):
            return await find_dead_letters(self._settings, places)

    @asynccontextmanager
    async def _room(self, limit_s: float) -> AsyncIterator[None]:
        if self._reading >= _MOST_READING:
            detail = "too many requests read the dead letters"
            raise Refusal(429, "overloaded", detail, headers={"Retry-After": "1"})
        self._reading += 1
        try:
            # A broker that does not answer, and what is at hand when the time is over.
            async with asyncio.timeout(limit_s + self._settings.api_confirm_timeout_s):
                yield
        except TimeoutError:
            raise try_later("dead_letters_slow", "Kafka did not answer in time", _RETRY_AFTER_S) from None
        except NotifydError as error:
            raise _failed(error) from None
        finally:
            self._reading -= 1


def _listed(letter: DeadLetter) -> dict[str, Any]:
    _, sender = names_in(letter)
    return {**describe(letter), "sender": sender, "died_at": iso(letter.timestamp_ms)}


async def _one_by_one(letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for letter in letters:
        yield letter


def _failed(error: NotifydError) -> Refusal:
    if isinstance(error, TransientError):
        return try_later(error.reason, "Kafka did not answer in time; repeat it", _RETRY_AFTER_S)
    return Refusal(500, error.reason, str(error))
