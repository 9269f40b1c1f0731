"""What `deliver` makes durable of its deliveries: retries, dead letters, addresses that are gone."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, Final

import msgspec

from notifyd.channels.port import Delivery
from notifyd.delivery.event import Event
from notifyd.delivery.outcome import Dead, Done, Outcome, Skip
from notifyd.delivery.retry import RetryAt
from notifyd.errors import NotifydError
from notifyd.log import get_logger
from notifyd.roles.context import RoleContext
from notifyd.roles.jobs import Job
from notifyd.stream.dead_letter import DeadLetters
from notifyd.stream.held_writer import HeldWriter
from notifyd.stream.records import OutRecord
from notifyd.stream.retry import RetryOrder, retry_record

_log = get_logger()

#: What the events call an outcome.
_STAGES: Final[dict[type, str]] = {Done: "sent", Dead: "dead", RetryAt: "retry_wait", Skip: "skipped"}


class Result(msgspec.Struct, frozen=True):
    """What became of one delivery. `cause` is the reason of the attempt, `detail` for people."""

    delivery: Delivery
    outcome: Outcome | RetryAt
    cause: str = ""
    detail: str = ""
    #: What is to be told of the recipient's contact.
    mark: OutRecord | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all there is to make durable is its event."""
        return self.mark is None and isinstance(self.outcome, Done | Skip)

    @property
    def reason(self) -> str:
        """Why it ended or waits, as events and dead letters say it; empty where it is done."""
        return self.outcome.reason if isinstance(self.outcome, Dead | Skip) else self.cause


class Settlement:
    """Settles what became of the deliveries of a job; its events are the caller's to write, after that."""

    def __init__(self, context: RoleContext, held: HeldWriter, dead_letters: DeadLetters) -> None:
        self._context = context
        self._held = held
        self._dead_letters = dead_letters

    async def settle(self, job: Job, results: list[Result]) -> list[Event]:
        """Make retries and dead letters durable; return the events that are to tell of all outcomes then."""
        events: list[Event] = []
        waiting: dict[tuple[str, RetryAt], list[str]] = defaultdict(list)
        dead: list[Result] = []
        now_ms = int(time.time() * 1000)
        for result in results:
            delivery, outcome = result.delivery, result.outcome
            due_ms = None
            if isinstance(outcome, RetryAt):
                waiting[delivery.channel, outcome].append(delivery.user)
                due_ms = now_ms + int(outcome.due_in_s * 1000)
            elif isinstance(outcome, Dead):
                dead.append(result)
            events.append(self.event(job, result, now_ms, due_ms))
        records = [
            retry_record(
                job.record,
                self._context.topics,
                at.rung,
                RetryOrder(
                    channel,
                    tuple(users),
                    at.attempt,
                    now_ms + int(at.due_in_s * 1000),
                    job.first_at_ms,
                    job.run,
                    job.deferrals + 1 if at.attempt == job.attempt else 0,
                ),
            )
            for (channel, at), users in waiting.items()
        ]
        records += [self._dead_letter(job, result) for result in dead]
        if records:
            await self._held.write(records)
        await self._mark(results)
        for result in dead:
            self._context.metrics.dead.labels(result.reason).inc()
        return events

    def event(self, job: Job, result: Result, now_ms: int, due_ms: int | None = None) -> Event:
        """Build the event that tells of a result; `due_ms` is when one that waits is tried again."""
        delivery, outcome = result.delivery, result.outcome
        stage = _STAGES.get(type(outcome), "failed")
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
            pod=self._context.settings.pod_name,
            run=job.run,
            attempt=job.attempt,
            due=due_ms,
            reason=result.reason or None,
            detail=result.detail or None,
        )

    async def _mark(self, results: list[Result]) -> None:
        """Tell the contacts topic of addresses that are gone; the next answer does if that fails."""
        marks = [(result.delivery.channel, result.mark) for result in results if result.mark is not None]
        if not marks:
            return
        outcomes = await self._context.producer.send_each([mark for _, mark in marks])
        for (channel, _), sent in zip(marks, outcomes, strict=True):
            if isinstance(sent, NotifydError):
                _log.warning("address_kept", channel=channel, reason=sent.reason)
            else:
                self._context.metrics.addresses_gone.labels(channel).inc()

    def _dead_letter(self, job: Job, result: Result) -> Any:
        return self._dead_letters.record(
            job.record,
            reason=result.reason,
            error=result.detail,
            attempts=job.attempt,
            first_at_ms=job.first_at_ms,
            channel=result.delivery.channel,
            user=result.delivery.user,
        )
