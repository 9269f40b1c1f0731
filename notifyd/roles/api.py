"""Role `api`: takes messages in by HTTP, for which it needs Kafka alone, and reads what was stored."""

from __future__ import annotations

import asyncio

from notifyd.errors import NotifydError, TransientError
from notifyd.http.contacts import ContactRoutes
from notifyd.http.dead_letters import DeadLetterRoutes
from notifyd.http.inbox import InboxRoutes
from notifyd.http.lookup import LookupRoutes
from notifyd.http.messages import PATH, MessagesRoute
from notifyd.http.openapi import add_openapi_route
from notifyd.http.reads import Reads
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.push.auth import TokenVerifier
from notifyd.push.requests import Browsers, OriginList
from notifyd.roles.context import RoleContext
from notifyd.settings import Settings

#: How often the broker is asked whether it is there, while it is and while it is not ...
_ASK_EVERY_S = 2.0
_ASK_AGAIN_S = 0.5
#: ... how long it may take to answer ...
_ANSWER_WITHIN_S = 3.0
#: ... and how many answers in a row must be missing: one may be an election.
_MISSED_ANSWERS = 2
#: Of the drain: how long clients that keep a connection have for one more request, whose answer ends it.
_KEPT_SHARE = 0.4

_log = get_logger()


class ApiRole:
    """Serves messages, inboxes and contacts; ready while Kafka can be reached, whatever the database does."""

    name = "api"

    def __init__(self, context: RoleContext) -> None:
        settings = context.settings
        self._context = context
        self._verifier = TokenVerifier(settings)
        self._messages = MessagesRoute(
            context.producer,
            self._verifier,
            settings,
            context.metrics,
            topic=context.topics.messages,
            limits=context.limits,
            tracing=context.tracing,
        )
        self._missed = _MISSED_ANSWERS
        self._watch: asyncio.Task[None] | None = None
        add_openapi_route(context.public, settings)
        self._reads = Reads(settings, context.metrics, self._verifier)
        self._signals = context.signals()
        browsers = Browsers(OriginList(settings.ws_origins))
        browsers.add(context.public, "POST", PATH, self._messages.handle)
        LookupRoutes(self._reads).add(context.public, browsers)
        contacts = ContactRoutes(self._reads, context.producer, settings, topic=context.topics.contacts)
        contacts.add(context.public, browsers)
        InboxRoutes(self._reads, self._signals, settings).add(context.public, browsers)
        self._dead_letters = DeadLetterRoutes(
            self._reads,
            context.producer,
            settings,
            topics=context.topics,
            incarnation=context.incarnation,
        )
        self._dead_letters.add(context.public, browsers)

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs keys to verify tokens with."""
        TokenVerifier(settings)

    async def start(self) -> None:
        """Return once the topic of messages was found; raises `NotifydError` where that takes a person."""
        error = await self._ask()
        while error is not None:
            if not isinstance(error, TransientError):
                raise error
            error = await self._ask_later()
        self._watch = asyncio.create_task(self._watch_broker(), name="watch the broker")

    async def stop(self) -> None:
        """Answer what is asked until clients have let go of their connections, and all that is under way."""
        drain_s = self._context.settings.drain_s
        self._dead_letters.end()
        await self._context.send_away(drain_s * _KEPT_SHARE)
        left_s = drain_s * (1 - _KEPT_SHARE)
        await asyncio.gather(self._messages.room.wait_empty(left_s), self._dead_letters.wait_idle(left_s))
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        await self._reads.stop()
        await self._context.flush(self._signals)
        await self._verifier.stop()

    @property
    def waits_for(self) -> list[str]:
        """Ready takes Kafka, and nothing else."""
        return ["Kafka"] if self._missed >= _MISSED_ANSWERS else []

    @property
    def polled_at(self) -> float | None:
        """It polls nothing."""
        return None

    @property
    def running(self) -> list[str]:
        """Requests that have no answer yet."""
        count = self._messages.room.requests
        running = [f"{count} requests"] if count else []
        return [*running, "dead letters"] if self._dead_letters.is_at_work else running

    async def _watch_broker(self) -> None:
        while True:
            was_ready = not self.waits_for
            error = await self._ask_later()
            if error is not None and was_ready and self.waits_for:
                _log.warning("broker_away", role=self.name, reason=error.reason, detail=str(error))
            elif error is None and not was_ready:
                _log.info("broker_found", role=self.name)

    async def _ask_later(self) -> NotifydError | None:
        if self._missed:
            await self._context.producer.recover()
        await asyncio.sleep(_ASK_AGAIN_S if self._missed else _ASK_EVERY_S)
        return await self._ask()

    async def _ask(self) -> NotifydError | None:
        """Ask the broker for the topic over the producer's own connection; return what is wrong."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._context.producer.partitions(self._context.topics.messages)
        except TimeoutError:
            error: NotifydError = TransientError("the broker does not answer", reason="broker_unavailable")
        except NotifydError as found:
            error = found
        else:
            self._missed = 0
            return None
        self._missed += 1
        return error
