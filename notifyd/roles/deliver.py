"""Role `deliver`: every channel but ws, its retries, and the end of what cannot work.

A record is acknowledged once each of its deliveries has an outcome that the broker holds: an
event, and a retry record or a dead letter where there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from notifyd.channels.port import Channel, Delivery
from notifyd.channels.registry import build_channels
from notifyd.delivery.contact import NO_CONTACT, contact_for, is_muted
from notifyd.delivery.event import FIRST_RUN, Event
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.delivery.retry import RUNGS, RetryAt, RetryPolicy, decide, rung_for
from notifyd.errors import InvalidMessage
from notifyd.log import get_logger
from notifyd.message.envelope import Message, decode
from notifyd.roles.context import RoleContext
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.stream.batch import Batch, Record
from notifyd.stream.engine import EngineOptions
from notifyd.stream.retry import RetryOrder, read_order, retry_record
from notifyd.stream.work import work_on_records

_log = get_logger()

#: Retries seen within this many others are recognised when they come twice.
_SEEN_RETRIES: Final = 50_000
#: A record due this soon is worked on now rather than sent through another rung.
_EARLY_MS: Final = 250


@dataclass(frozen=True, slots=True)
class _Job:
    """One record to work on: its message, and which attempt for whom."""

    record: Record
    message: Message
    pairs: tuple[tuple[str, str], ...]  # (user, channel)
    attempt: int
    run: str
    first_at_ms: int


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one delivery."""

    delivery: Delivery
    outcome: Outcome | RetryAt
    cause: str = ""
    detail: str = ""


class DeliverRole(StreamingRole):
    """Reads messages and retry topics; writes events, retries and dead letters."""

    name = "deliver"

    def __init__(self, context: RoleContext) -> None:
        settings, topics = context.settings, context.topics
        retry_topics = {topics.retry[rung]: delay_s for rung, delay_s in RUNGS}
        options = EngineOptions(
            role=self.name,
            group=group_of(settings, self.name),
            settings=settings,
            metrics=context.metrics,
            fail=context.fail,
            delays_s=retry_topics,
        )
        super().__init__(context, options)
        self._events = context.events(self.name)
        self._dead_letters = context.dead_letters()
        self._policy = RetryPolicy.of(settings)
        self._channels: dict[str, Channel] = build_channels(settings, context.metrics)
        self._slots = asyncio.Semaphore(settings.deliver_concurrency)
        self._retry_topics = frozenset(retry_topics)
        self._seen: OrderedDict[tuple[str, str, str, str, int], None] = OrderedDict()
        work = work_on_records(
            options, self._work, self._on_surprise, concurrency=settings.deliver_concurrency
        )
        self.app.add_agent([topics.messages, *retry_topics], work, name="deliver")

    async def start(self) -> None:
        """Make the channels ready, then read."""
        await self._events.start()
        for channel in self._channels.values():
            await channel.start()
        await super().start()

    async def stop(self) -> None:
        """Drain, then let go of the channels."""
        await super().stop()
        for channel in self._channels.values():
            await channel.stop()
        await self._events.stop()

    # One record

    async def _work(self, batch: Batch, record: Record) -> None:
        job = await self._job(record)
        if job is None:
            return
        results = await asyncio.gather(*(self._deliver(job, user, channel) for user, channel in job.pairs))
        await self._settle(job, results)

    async def _job(self, record: Record) -> _Job | None:
        """Read a record; `None` where nothing is to be done for it here."""
        is_retry = record.topic in self._retry_topics
        settings = self.context.settings
        try:
            order = read_order(record) if is_retry else None
            message = decode(
                record.value,
                timestamp_ms=order.first_at_ms if order else record.timestamp,
                limits=self.context.limits,
                is_exempt=is_retry,
            )
            content = message.content
        except InvalidMessage as error:
            await self._on_invalid(record, error, is_ours=is_retry)
            return None
        if order is not None:
            ahead_ms = order.due_ms - int(time.time() * 1000)
            if ahead_ms > _EARLY_MS:
                rung = rung_for(ahead_ms / 1000)
                await self.context.producer.send_held(
                    [retry_record(record, self.context.topics, rung, order)]
                )
                return None
            users = [user for user in order.users if self._is_new(message, user, order)]
            pairs = tuple((user, order.channel) for user in users)
            return (
                _Job(record, message, pairs, order.attempt, order.run, order.first_at_ms) if pairs else None
            )
        if content.not_before_ms is not None and content.not_before_ms > record.timestamp:
            return None  # `persist` keeps it as scheduled; it comes again when it is due
        channels = [channel for channel in content.channels if channel != "ws"]
        pairs = tuple((user, channel) for channel in channels for user in message.recipients)
        if not pairs or settings.retry_max_attempts < 1:
            return None
        return _Job(record, message, pairs, 1, FIRST_RUN, record.timestamp)

    async def _on_invalid(self, record: Record, error: InvalidMessage, *, is_ours: bool) -> None:
        """Records of the input topic are dead-lettered by `persist` alone; ours have nobody else."""
        self.context.metrics.invalid.labels(self.name, error.reason).inc()
        if is_ours:
            await self._dead_letters.write(record, reason=error.reason, error=error.message)

    def _is_new(self, message: Message, user: str, order: RetryOrder) -> bool:
        key = (message.id, user, order.channel, order.run, order.attempt)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > _SEEN_RETRIES:
            self._seen.popitem(last=False)
        return True

    # One delivery

    async def _deliver(self, job: _Job, user: str, name: str) -> _Result:
        delivery = Delivery(job.message, user, name, job.run, job.attempt)
        started = time.monotonic()
        outcome = await self._attempt(delivery)
        metrics = self.context.metrics
        metrics.delivery_seconds.labels(name if name in self._channels else "unknown").observe(
            time.monotonic() - started
        )
        reason = "" if isinstance(outcome, Done) else outcome.reason
        metrics.deliveries.labels(
            name if name in self._channels else "unknown", type(outcome).__name__.lower(), reason
        ).inc()
        if isinstance(outcome, Retry):
            return _Result(
                delivery, decide(self._policy, outcome, job.attempt), outcome.reason, outcome.detail
            )
        return _Result(delivery, outcome, reason, getattr(outcome, "detail", ""))

    async def _attempt(self, delivery: Delivery) -> Outcome:
        message, content = delivery.message, delivery.message.content
        channel = self._channels.get(delivery.channel)
        if channel is None:
            known = ", ".join(sorted(self._channels))
            return Dead(
                "unknown_channel", f"there is no channel {delivery.channel[:40]!r}, only {known} and ws"
            )
        now_ms = int(time.time() * 1000)
        expires_at_ms = content.expires_at_ms(message.timestamp_ms)
        if expires_at_ms is not None and now_ms >= expires_at_ms:
            return Skip("expired")
        try:
            contact = contact_for(content.contacts, delivery.user) or NO_CONTACT
        except InvalidMessage as error:
            return Dead("bad_contact", error.message)
        if is_muted(
            contact, type=content.type, channel=delivery.channel, at_ms=now_ms, critical=content.critical
        ):
            return Skip("muted")
        async with self._slots:
            try:
                return await channel.send(delivery, contact)
            except Exception as error:  # a fault of ours in one delivery must not repeat the others
                _log.error(
                    "channel_failed",
                    channel=delivery.channel,
                    message_id=message.id,
                    user_id=delivery.user,
                    exc_info=error,
                )
                self.context.metrics.handler_failures.labels(self.name, delivery.channel).inc()
                return Retry("channel_error", detail=type(error).__name__)

    # Outcomes

    async def _settle(self, job: _Job, results: Iterable[_Result]) -> None:
        """Make all outcomes durable: retries and dead letters first, then the events that tell of them."""
        events: list[Event] = []
        waiting: dict[tuple[str, RetryAt], list[str]] = defaultdict(list)
        dead: list[_Result] = []
        now_ms = int(time.time() * 1000)
        for result in results:
            delivery, outcome = result.delivery, result.outcome
            due_ms = None
            if isinstance(outcome, RetryAt):
                waiting[delivery.channel, outcome].append(delivery.user)
                due_ms = now_ms + int(outcome.due_in_s * 1000)
            elif isinstance(outcome, Dead):
                dead.append(result)
            events.append(self._event(job, result, now_ms, due_ms))
        records = [
            retry_record(
                job.record,
                self.context.topics,
                at.rung,
                RetryOrder(
                    channel,
                    tuple(users),
                    at.attempt,
                    now_ms + int(at.due_in_s * 1000),
                    job.first_at_ms,
                    job.run,
                ),
            )
            for (channel, at), users in waiting.items()
        ]
        records += [self._dead_letter(job, result) for result in dead]
        if records:
            await self.context.producer.send_held(records)
        for result in dead:
            self.context.metrics.dead.labels(_reason(result)).inc()
        await self._events.write(events)

    def _dead_letter(self, job: _Job, result: _Result) -> Any:
        return self._dead_letters.record(
            job.record,
            reason=_reason(result),
            error=_detail(result),
            attempts=job.attempt,
            first_at_ms=job.first_at_ms,
            channel=result.delivery.channel,
            user=result.delivery.user,
        )

    def _event(self, job: _Job, result: _Result, now_ms: int, due_ms: int | None) -> Event:
        delivery, outcome = result.delivery, result.outcome
        stage = {Done: "sent", Dead: "dead", RetryAt: "retry_wait", Skip: "skipped"}.get(
            type(outcome), "failed"
        )
        if isinstance(outcome, Skip) and outcome.reason == "expired":
            stage = "expired"
        return Event(
            id=job.message.id,
            day=job.message.day.isoformat(),
            digest=job.message.digest,
            user=delivery.user,
            channel=delivery.channel,
            stage=stage,
            at=now_ms,
            pod=self.context.settings.pod_name,
            run=job.run,
            attempt=job.attempt,
            due=due_ms,
            reason=_reason(result) or None,
            detail=_detail(result) or None,
        )

    async def _on_surprise(self, record: Record, error: Exception) -> None:
        """Dead-letter a record that our own code could not handle; it can be replayed once that is mended."""
        await self._dead_letters.write(
            record, reason="handler_error", error=f"{type(error).__name__}: {error}"
        )


def _reason(result: _Result) -> str:
    return result.outcome.reason if isinstance(result.outcome, Dead | Skip) else result.cause


def _detail(result: _Result) -> str:
    return result.outcome.detail if isinstance(result.outcome, Dead) else result.detail
