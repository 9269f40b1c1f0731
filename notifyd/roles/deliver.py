"""Role `deliver`: every channel but ws, its retries, and the end of what cannot work.

A record is acknowledged once each of its deliveries has an outcome that the broker holds: an
event, and a retry record or a dead letter where there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Final

from prometheus_client import Counter, Histogram

from notifyd.channels.port import Channel, Delivery
from notifyd.channels.registry import build_channels
from notifyd.delivery.breaker import INPUT_REASONS, Breaker, BreakerPolicy
from notifyd.delivery.contact import NO_CONTACT, Contact, contact_for, is_muted, merge, read_contact, without
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.delivery.retry import RUNGS, RetryAt, RetryPolicy, decide, rung_for
from notifyd.errors import ConfigError, InvalidMessage, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.roles.allowance import Turns
from notifyd.roles.conflicts import RecentIds, Told
from notifyd.roles.context import RoleContext
from notifyd.roles.jobs import Job, RetryJobs, read_message_job, read_resend_job
from notifyd.roles.reach import Reach
from notifyd.roles.settlement import Result, Settlement
from notifyd.roles.streaming import StreamingRole, group_of
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.contacts import Contacts
from notifyd.stream.engine import EngineOptions
from notifyd.stream.held_writer import HeldWriter
from notifyd.stream.records import OutRecord
from notifyd.stream.retry import RetryOrder, retry_record
from notifyd.stream.turns import Slots
from notifyd.stream.work import Rest, work_on_records

_log = get_logger()

#: A record due this soon is worked on now rather than sent through another rung.
_EARLY_MS: Final = 250
#: Retries without an attempt (a busy host, an open breaker) count once a record is this old, or
#: a host that never recovers would keep its deliveries from an end for ever.
_UNCOUNTED_MS: Final = 6 * 3600 * 1000

#: A wait for a channel's turn lasts this long at most; then the delivery comes back by a retry topic.
_TURN_S: Final = 1.0


class DeliverRole(StreamingRole):
    """Reads messages, resends and retry topics; writes events, retries and dead letters."""

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
        self._breaker = Breaker(
            BreakerPolicy(
                share=settings.pause_share, min_dead=settings.pause_min_dead, pause_s=settings.pause_s
            )
        )
        self._contacts = Contacts(settings, context.metrics, context.incarnation, context.fail)
        self._turns = {name: Turns(per_s, _TURN_S) for name, per_s in settings.channel_rates.items()}
        self._held = HeldWriter(
            context.producer, settings.events_linger_s, patience_s=settings.producer_timeout_s
        )
        self._settlement = Settlement(context, self._held, self._dead_letters)
        self._slots = Slots(settings.deliver_concurrency, aside=settings.deliver_aside)
        #: Deliveries begun of messages to many: those of one after those of another, as there may be places.
        self._begun = asyncio.Semaphore(settings.deliver_concurrency + settings.deliver_aside)
        self._turn_of_many = asyncio.Lock()
        self._retry_topics = frozenset(retry_topics)
        self._retries = RetryJobs(context.limits)
        self._recent = RecentIds()
        self._meters_of: dict[tuple[str, str, str], tuple[Histogram, Counter]] = {}
        work = work_on_records(
            options,
            self._work,
            self._on_surprise,
            concurrency=settings.deliver_concurrency,
            aside=settings.deliver_aside,
        )
        self.app.add_agent([topics.messages, topics.resend, *retry_topics], work, name="deliver")

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs channels that can work, and limits of channels that there are."""
        unknown = sorted(settings.channel_rates.keys() - build_channels(settings, metrics).keys())
        if unknown:
            raise ConfigError(
                f"NOTIFYD_DELIVER_RATES limits {unknown[0]!r}, and there is no such channel",
                reason="bad_setting",
                remedy="limit a channel that is set up, e.g. webhook=200",
            )

    async def start(self) -> None:
        """Make the channels ready, then read."""
        await self._events.start()
        await self._contacts.start()
        # Whoever is not known yet would be taken for one without an address.
        await self._contacts.wait()
        for channel in self._channels.values():
            await channel.start()
        await super().start()

    async def stop(self) -> None:
        """Drain, then let go of the channels."""
        await super().stop()
        for channel in self._channels.values():
            await channel.stop()
        await self._contacts.stop()
        await self.context.flush(self._events)

    @property
    def waits_for(self) -> list[str]:
        """Ready takes a complete copy of the contacts, beside the group."""
        return super().waits_for + ([] if self._contacts.is_current else ["contacts"])

    # One record

    async def _work(self, batch: Batch, record: Record) -> Rest | None:
        """Try all deliveries of a record; what is left is to make their outcomes durable."""
        is_retry = record.topic in self._retry_topics
        is_resend = record.topic == self.context.topics.resend
        try:
            if is_retry:
                job = self._retries.read(record, batch.flow)
            elif is_resend:
                job = read_resend_job(record, self.context.limits)
            else:
                job = read_message_job(record, self.context.limits)
        except InvalidMessage as error:
            await self._on_invalid(record, error, is_ours=is_retry or is_resend)
            return None
        if not is_retry and not is_resend and not self._is_fresh(job):
            return None
        if job.order is not None and await self._sent_on(job, job.order):
            self._retries.put_back(job)
            return None
        try:
            if (tracing := self.context.tracing) is None:
                results = await self._deliver_all(job)
            else:
                with tracing.process(record, job.message.id, self.app.options.group):
                    results = await self._deliver_all(job)
        except Exception:
            self._retries.put_back(job)
            raise
        if len(results) == 1 and results[0].is_plain and job.order is None:
            # As with most: there is nothing but an event, and a task to wait for it would cost more.
            return self._events.put(self._settlement.event(job, results[0], int(time.time() * 1000)))
        return self._conclude(job, results) if results else None

    def _is_fresh(self, job: Job) -> bool:
        """Whether a record of the input topic is to be delivered."""
        told = self._recent.tell(job.record, job.message, begins=bool(job.pairs))
        if told is Told.CONFLICT:
            # `persist` sets it aside; its webhook would speak in the first message's name.
            self.context.metrics.invalid.labels(self.name, "id_conflict").inc()
        elif told is Told.DOUBLE:
            for _, name in job.pairs:
                known = name if name in self._channels else "unknown"
                self.context.metrics.deliveries.labels(known, "skip", "double").inc()
        return told is Told.FRESH

    async def _conclude(self, job: Job, results: list[Result]) -> asyncio.Future[None] | None:
        events = await self._settlement.settle(job, results)
        if len(events) == 1 and job.order is None:
            return self._events.put(events[0])
        await self._events.write(events)
        self._retries.settled(job)
        return None

    async def _deliver_all(self, job: Job) -> list[Result]:
        """Try every delivery of a job; all have ended when it returns or raises."""
        if len(job.pairs) == 1:  # as most have: a task of its own would be a tenth of the cost
            return [await self._deliver(job, *job.pairs[0])]
        tasks: list[asyncio.Task[Result]] = []
        try:
            # Hundreds of messages to a thousand each would be a gigabyte of tasks in line for a place.
            async with self._turn_of_many:
                for user, channel in job.pairs:
                    await self._begun.acquire()
                    tasks.append(asyncio.create_task(self._deliver(job, user, channel)))
                    tasks[-1].add_done_callback(self._ended)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        results: list[Result] = []
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results.append(result)
        return results

    def _ended(self, _: asyncio.Task[Result]) -> None:
        self._begun.release()

    async def _sent_on(self, job: Job, order: RetryOrder) -> bool:
        """Send a retry that is due later through the largest rung that still fits; no attempt is counted."""
        ahead_ms = order.due_ms - int(time.time() * 1000)
        if ahead_ms <= _EARLY_MS:
            return False
        again = retry_record(job.record, self.context.topics, rung_for(ahead_ms / 1000), order)
        await self._held.write([again])
        return True

    async def _on_invalid(self, record: Record, error: InvalidMessage, *, is_ours: bool) -> None:
        """Records of the input topic are dead-lettered by `persist` alone; ours have nobody else."""
        self.context.metrics.invalid.labels(self.name, error.reason).inc()
        if is_ours:
            await self._dead_letters.write(record, reason=error.reason, error=error.message)

    async def _on_surprise(self, record: Record, error: Exception) -> None:
        """Dead-letter a record that our own code could not handle; it can be replayed once that is mended."""
        with contextlib.suppress(InvalidMessage):
            self._recent.forget(record, read_message_job(record, self.context.limits).message.id)
        await self._dead_letters.write(
            record, reason="handler_error", error=f"{type(error).__name__}: {error}"
        )

    # One delivery

    async def _deliver(self, job: Job, user: str, name: str) -> Result:
        if (tracing := self.context.tracing) is None:
            return await self._try(job, user, name)
        with tracing.attempt(name, job.message.id, job.attempt) as span:
            result = await self._try(job, user, name, tracing.exemplar_here())
            is_retry = isinstance(result.outcome, RetryAt)
            span.set_attribute(
                "notifyd.outcome", "retry" if is_retry else type(result.outcome).__name__.lower()
            )
            if result.cause:
                span.set_attribute("notifyd.reason", result.cause)
            return result

    async def _try(self, job: Job, user: str, name: str, exemplar: dict[str, str] | None = None) -> Result:
        delivery = Delivery(job.message, user, name, job.run, job.attempt)
        started = time.monotonic()
        paused_s = self._breaker.paused_for_s(job.message.sender, name, started)
        outcome: Outcome
        if paused_s:
            outcome, mark = Retry("sender_paused", after_s=paused_s, counts=False), None
        else:
            outcome, mark = await self._attempt(delivery)
        reason = "" if isinstance(outcome, Done) else outcome.reason
        timed, counted = self._meters(name, type(outcome).__name__.lower(), reason)
        timed.observe(time.monotonic() - started, exemplar)
        counted.inc()
        if isinstance(outcome, Retry):
            if not outcome.counts and time.time() * 1000 - job.first_at_ms > _UNCOUNTED_MS:
                outcome = replace(outcome, counts=True)
            decision = decide(self._policy, outcome, job.attempt)
            if not paused_s:
                self._judge(delivery, decision)
            detail = decision.detail if isinstance(decision, Dead) else outcome.detail
            return Result(delivery, decision, outcome.reason, detail, mark)
        self._judge(delivery, outcome)
        return Result(delivery, outcome, reason, getattr(outcome, "detail", ""), mark)

    def _meters(self, name: str, outcome: str, reason: str) -> tuple[Histogram, Counter]:
        found = self._meters_of.get((name, outcome, reason))
        if found is None:
            metrics, known = self.context.metrics, name if name in self._channels else "unknown"
            found = metrics.delivery_seconds.labels(known), metrics.deliveries.labels(known, outcome, reason)
            if known == name:  # a sender may name any number of channels that there are not
                self._meters_of[name, outcome, reason] = found
        return found

    def _judge(self, delivery: Delivery, outcome: Outcome | RetryAt) -> None:
        """Pause a sender on a channel rather than pour its messages into the dead-letter queue."""
        if isinstance(outcome, Skip) or (isinstance(outcome, Dead) and outcome.reason in INPUT_REASONS):
            return
        sender, channel = delivery.message.sender, delivery.channel
        is_dead = isinstance(outcome, Dead)
        if self._breaker.note(sender, channel, is_dead=is_dead, now_s=time.monotonic()):
            self.context.metrics.pauses.labels(channel).inc()
            _log.error(
                "sender_paused",
                sender=sender,
                channel=channel,
                pause_s=self.context.settings.pause_s,
                reason=outcome.reason if isinstance(outcome, Dead) else "",
            )

    async def _attempt(self, delivery: Delivery) -> tuple[Outcome, OutRecord | None]:
        """Try once; return beside the outcome what is to be told of the contact, if anything is."""
        message, content = delivery.message, delivery.message.content
        channel = self._channels.get(delivery.channel)
        if channel is None:
            known = ", ".join(sorted(self._channels))
            error = f"there is no channel {delivery.channel[:40]!r}, only {known} and ws"
            return Dead("unknown_channel", error), None
        now_ms = int(time.time() * 1000)
        expires_at_ms = content.expires_at_ms(message.timestamp_ms)
        if expires_at_ms is not None and now_ms >= expires_at_ms:
            return Skip("expired"), None
        found = self._contact(delivery)
        if not isinstance(found, Reach):
            return found, None
        contact = found.contact
        if is_muted(
            contact, type=content.type, channel=delivery.channel, at_ms=now_ms, critical=content.critical
        ):
            return Skip("muted"), None
        outcome = await self._send(channel, delivery, contact)
        gone = () if isinstance(outcome, Skip) else outcome.gone
        return outcome, found.mark(self.context.topics.contacts, delivery, gone) if gone else None

    async def _send(self, channel: Channel, delivery: Delivery, contact: Contact) -> Outcome:
        turns = self._turns.get(delivery.channel)
        if turns is not None and not await turns.take():
            return Retry("rate_limited", detail="the channel has all its calls of this second", counts=False)
        place = self._slots.take() or await self._slots.wait()
        try:
            return await channel.send(delivery, contact)
        except Exception as error:  # a fault of ours in one delivery must not repeat the others
            _log.error(
                "channel_failed",
                channel=delivery.channel,
                message_id=delivery.message.id,
                user_id=delivery.user,
                exc_info=error,
            )
            self.context.metrics.handler_failures.labels(self.name, delivery.channel).inc()
            return Retry("channel_error", detail=type(error).__name__)
        finally:
            self._slots.free(place)

    def _contact(self, delivery: Delivery) -> Reach | Dead | Retry:
        """Find how to reach the recipient, or why that cannot be told."""
        user = delivery.user
        try:
            told = contact_for(delivery.message.content.contacts, user)
            known = self._contacts.get(user)
            if known is None:
                return Reach(told or NO_CONTACT)
            kept = read_contact(known.value, user, where=f"the contact of {user}", reason="bad_contact")
        except TransientError as error:
            return Retry(error.reason, detail=error.message, counts=False)
        except InvalidMessage as error:
            return Dead(error.reason, error.message)
        kept = without(kept, known.gone)
        return Reach(kept if told is None else merge(kept, told), kept, known)
