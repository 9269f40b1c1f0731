"""Role `sweep`: looks after every delivery that nobody has spoken of by its deadline.

One process leads, others stand by. It judges only what all others have come past: their commits are
read first, then the end of the events topic, and only once `persist` has stored everything up to that
end is a delivery without an outcome one whose outcome is lost. So a late `persist` does not look like
a silent user, nor a stopped `deliver` like ten thousand lost webhooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

from notifyd.delivery.event import Event
from notifyd.delivery.overdue import Later, Overdue, Progress, Resend, Settle, judge
from notifyd.errors import NotifydError, TransientError
from notifyd.log import get_logger
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.roles.alarms import Alarms
from notifyd.roles.allowance import Allowance
from notifyd.roles.chores import do_chores
from notifyd.roles.context import RoleContext
from notifyd.roles.database import start_database
from notifyd.roles.outlook import Outlook, Snapshot
from notifyd.settings import Settings
from notifyd.store.pool import Database
from notifyd.store.sweep import Leadership, SweepStore
from notifyd.stream.clients import backoff_s
from notifyd.stream.resend import ResendOrder, release_record, resend_record

_log = get_logger(component="sweep")

#: Deliveries that are looked at together.
_BATCH: Final = 500
#: Messages of which the bytes are in memory at a time: 64 of 256 KiB are 16 MiB.
_ORIGINALS: Final = 64
#: For so long nobody else looks at what we lease; more than a resend can take.
_LEASE_S: Final = 120.0
#: Between two looks of a standby at whether the lead is free.
_STANDBY_S: Final = 2.0
#: Resends that wait for their turn are looked at again after this time.
_TURN_S: Final = 5.0
#: When to look again at a message that cannot be opened: a person has to add its key.
_SEALED_S: Final = 60.0
#: The age of the oldest unfinished message is asked for so often: some 50 ms of the server's time.
_OLDEST_EVERY_S: Final = 15.0
#: Between two lines that say we still wait for the same reason.
_REMINDER_S: Final = 30.0


class SweepRole:
    """Reads tables and commits; writes resends, releases and events."""

    name = "sweep"

    def __init__(self, context: RoleContext) -> None:
        settings = context.settings
        self.context = context
        self._database = Database(settings, context.metrics)
        self._store = SweepStore(self._database)
        self._events = context.events(self.name)
        self._outlook = Outlook(settings, context.incarnation, self._store)
        self._resends = Allowance(settings.sweep_resends_per_s)
        self._alarms = Alarms(settings, context.metrics)
        self._asked: Snapshot | None = None
        self._known: Snapshot | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = asyncio.Event()
        self._has_database = False
        self._oldest_at = 0.0
        self._failures = 0
        self._told, self._next_line_at = "", 0.0
        #: Whether this one works, rather than stands by.
        self.is_leading = False

    @staticmethod
    def check(settings: Settings, metrics: Metrics) -> None:
        """It needs a database that can be read from its URL, and an alarm that can be sent."""
        Database(settings, metrics)
        Alarms(settings, metrics)

    async def start(self) -> None:
        """Wait for the database, then stand by or lead."""
        await start_database(self._database)
        await self._events.start()
        await self._alarms.start()
        self._has_database = True
        self._task = asyncio.create_task(self._run(), name="sweep")

    async def stop(self) -> None:
        """End after the batch at hand; what it leaves is leased, and whoever leads next goes on with it."""
        self._is_stopping.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=self.context.settings.drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._alarms.stop()
        await self._outlook.stop()
        await self.context.flush(self._events)
        await self._database.stop()

    @property
    def waits_for(self) -> list[str]:
        """What is missing before the role is ready; a standby is ready."""
        return [] if self._has_database else ["database"]

    @property
    def polled_at(self) -> float | None:
        """Nothing is polled."""
        return None

    @property
    def running(self) -> list[str]:
        """What is still at work."""
        return ["sweep"] if self._task is not None and not self._task.done() else []

    # The lead

    async def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                async with self._store.lead() as lead:
                    if lead is not None:
                        await self._lead(lead)
                self._is_well()
                await self._pause(_STANDBY_S)
            except TransientError as error:
                self._tell(error)
                await self._pause(backoff_s(self._failures))
                self._failures += 1
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the outer edge of this task: the process ends, and says why
                self.context.fail(error)
                return

    def _tell(self, error: TransientError) -> None:
        """Say once, and now and then, what is waited for."""
        now = time.monotonic()
        if error.reason != self._told or now >= self._next_line_at:
            self._told, self._next_line_at = error.reason, now + _REMINDER_S
            _log.warning("sweep_waits", reason=error.reason, error=error.message)

    def _is_well(self) -> None:
        if self._failures:
            _log.info("sweep_goes_on", is_leading=self.is_leading)
        self._failures, self._told = 0, ""

    async def _lead(self, lead: Leadership) -> None:
        if not self._failures:  # a lead that comes to nothing is no news
            _log.info("sweep_leads")
        self.is_leading = True
        self.context.metrics.sweep_leader.set(1)
        self._asked = self._known = None
        self._oldest_at = 0.0
        chores = asyncio.create_task(do_chores(self.context.settings), name="sweep-chores")
        try:
            while not self._is_stopping.is_set():
                await lead.confirm()
                is_busy = await self.sweep()
                await self._show_oldest()
                self._is_well()
                if not is_busy:
                    await self._pause(self.context.settings.sweep_every_s)
        finally:
            self.is_leading = False
            self.context.metrics.sweep_leader.set(0)
            # Whoever leads next tells.
            self.context.metrics.oldest_open.set(0)
            chores.cancel()
            await asyncio.gather(chores, return_exceptions=True)

    async def _show_oldest(self) -> None:
        """Tell now and then how old the oldest message is that has not arrived."""
        if time.monotonic() >= self._oldest_at:
            self.context.metrics.oldest_open.set(await self._store.oldest_open_s())
            self._oldest_at = time.monotonic() + _OLDEST_EVERY_S

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()

    # One pass

    async def sweep(self) -> bool:
        """Release what is due and look after what is overdue; true where there may be more at once."""
        released = await self._release()
        snapshot = await self._snapshot()
        if snapshot is None:
            return released
        found = await self._store.claim_due(snapshot.at_ms, limit=_BATCH, lease_s=_LEASE_S)
        if found:
            await self._look_after(found, snapshot.progress)
        return released or len(found) == _BATCH

    async def _release(self) -> bool:
        """Put scheduled messages whose time has come on the input topic."""
        due = await self._store.claim_scheduled(limit=_ORIGINALS, lease_s=_LEASE_S)
        records = [
            release_record(one.raw, message_id.encode(), self.context.topics, traceparent=one.traceparent)
            for message_id, one in due.items()
        ]
        if records:
            for result, message_id in zip(await self.context.producer.send_each(records), due, strict=True):
                if isinstance(result, NotifydError):
                    _log.warning("release_waits", message_id=message_id, reason=result.reason)
                else:
                    self.context.metrics.sweep_verdicts.labels("released", "").inc()
        return len(due) == _ORIGINALS

    async def _snapshot(self) -> Snapshot | None:
        """Return the last snapshot by which everything was stored that had been written when it was taken."""
        if self._asked is None:
            self._asked = await self._outlook.take()
        if await self._outlook.is_stored(self._asked):
            self._known, self._asked = self._asked, None
        told_ms = (self._known or self._asked or _NEVER).at_ms
        self.context.metrics.mark_lag.set(max(0.0, time.time() - told_ms / 1000))
        known, self._known = self._known, None
        return known

    async def _look_after(self, found: Sequence[Overdue], progress: Progress) -> None:
        now_ms, limit = int(time.time() * 1000), self.context.settings.sweep_max_resends
        waits: dict[Overdue, float] = {}
        resends: list[Overdue] = []
        events: list[Event] = []
        for one in found:
            verdict = judge(one, progress, now_ms=now_ms, max_resends=limit)
            match verdict:
                case Later(after_s, why):
                    waits[one] = after_s
                    self.context.metrics.sweep_verdicts.labels("later", why).inc()
                case Resend() if self._resends.take():
                    resends.append(one)
                case Resend():
                    waits[one] = _TURN_S
                    self.context.metrics.sweep_verdicts.labels("later", "rate").inc()
                case Settle(stage, reason, detail):
                    events.append(self._event(one, stage, one.run, one.attempt, reason, detail))
                    self.context.metrics.sweep_verdicts.labels(stage, reason).inc()
                    if stage == "dead":
                        self._alarms.raise_for(reason, one)
        await self._store.postpone(waits)
        for start in range(0, len(resends), _ORIGINALS):
            events += await self._resend(resends[start : start + _ORIGINALS])
        if events:
            await self._events.write(events)

    async def _resend(self, found: Sequence[Overdue]) -> list[Event]:
        """Send deliveries again; returns what to say of those that the broker has."""
        originals = await self._store.originals(found)
        # What is gone by now, or takes a key that this process lacks, is looked at again later.
        await self._store.postpone({one: _SEALED_S for one in found if one.id not in originals})
        found = [one for one in found if one.id in originals]
        runs = {one: one.pending_run or new_id() for one in found}
        await self._store.begin_resends(runs)
        records = [
            resend_record(
                original.raw,
                one.id.encode(),
                self.context.topics,
                ResendOrder(one.user, one.channel, run, one.accepted_at_ms, original.traceparent),
            )
            for one, run in runs.items()
            for original in [originals[one.id]]
        ]
        sent: dict[Overdue, str] = {}
        for result, one in zip(await self.context.producer.send_each(records), found, strict=True):
            if isinstance(result, NotifydError):
                _log.warning("resend_waits", message_id=one.id, user_id=one.user, reason=result.reason)
            else:
                sent[one] = runs[one]
                self.context.metrics.sweep_verdicts.labels("resent", "").inc()
        await self._store.count_resends(sent, check_after_s=self.context.settings.sweep_check_after_s)
        return [self._event(one, "pending", run, 0, "resent", None) for one, run in sent.items()]

    def _event(  # noqa: PLR0917
        self, one: Overdue, stage: str, run: str, attempt: int, reason: str, detail: str | None
    ) -> Event:
        return Event(
            id=one.id,
            day=one.day,
            digest=one.digest,
            user=one.user,
            channel=one.channel,
            stage=stage,
            run=run,
            attempt=attempt,
            at=int(time.time() * 1000),
            pod=self.context.settings.pod_name,
            reason=reason,
            detail=detail,
        )


_NEVER: Final = Snapshot(Progress("", {}, False, False, ()), 0, {})
