"""What maintainers are told of deliveries that died: grouped by reason, now and then, never in the way.

Raising an alarm counts it and no more. A task of its own writes the log's line and calls the webhook,
for each reason once in five minutes; what comes in between is in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import msgspec

from notifyd.channels.alarm import AlarmWebhook
from notifyd.delivery.outcome import Dead, Retry
from notifyd.delivery.overdue import Overdue
from notifyd.log import get_logger
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.clients import backoff_s

_log = get_logger(component="sweep")

#: Between two alarms of one reason.
ALARM_EVERY_S: Final = 300.0
#: What dies together is told together.
_LOOK_EVERY_S: Final = 1.0
#: A webhook that fails is called again after so long, doubled each time.
_FIRST_RETRY_S: Final = 5.0


class Tally(msgspec.Struct, frozen=True):
    """Deliveries that died of one reason since `since_ms` (ms since 1970), and one of them."""

    reason: str
    deliveries: int
    since_ms: int
    message_id: str
    user_id: str
    channel: str


class Digest:
    """Counts by reason, and lets each reason out once in `every_s`. `clock` is monotonic seconds."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._tallies: dict[str, Tally] = {}
        self._next_at: dict[str, float] = {}

    def add(self, reason: str, one: Overdue, *, at_ms: int) -> None:
        """Count a delivery; of those told together the first stands for all."""
        known = self._tallies.get(reason) or Tally(reason, 0, at_ms, one.id, one.user, one.channel)
        self._tallies[reason] = msgspec.structs.replace(known, deliveries=known.deliveries + 1)

    def take(self, *, held: Collection[str] = (), is_last: bool = False) -> list[Tally]:
        """Take what may be told now but for the reasons `held`; all of it where no other chance comes."""
        now = self._clock()
        due = [
            reason
            for reason in self._tallies
            if reason not in held and (is_last or now >= self._next_at.get(reason, now))
        ]
        for reason in due:
            self._next_at[reason] = now + self._every_s
        return [self._tallies.pop(reason) for reason in due]


@dataclass(slots=True)
class _Unsent:
    """An alarm whose webhook was not answered well yet."""

    alarm_id: str
    text: str
    failures: int = 0
    next_at: float = 0.0


class Alarms:
    """Tells maintainers by log and, with NOTIFYD_SWEEP_ALARM_URL, by webhook. `every_s` is for tests."""

    def __init__(self, settings: Settings, metrics: Metrics, *, every_s: float = ALARM_EVERY_S) -> None:
        self._settings = settings
        self._metrics = metrics
        self._webhook = AlarmWebhook(settings) if settings.sweep_alarm_url is not None else None
        self._for_log, self._for_webhook = Digest(every_s), Digest(every_s)
        self._every_s = every_s
        self._unsent: dict[str, _Unsent] = {}
        self._is_stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def raise_for(self, reason: str, one: Overdue) -> None:
        """Count a delivery that died; it is told within a second, or with the next of this reason."""
        at_ms = int(time.time() * 1000)
        self._for_log.add(reason, one, at_ms=at_ms)
        if self._webhook is not None:
            self._for_webhook.add(reason, one, at_ms=at_ms)

    async def start(self) -> None:
        """Begin to tell."""
        if self._webhook is not None:
            await self._webhook.start()
        self._task = asyncio.create_task(self._run(), name="sweep-alarms")

    async def stop(self) -> None:
        """Tell what is left, within the time that a step of a stop has."""
        self._is_stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._settings.stop_step_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._webhook is not None:
            await self._webhook.stop()

    async def _run(self) -> None:
        while not self._is_stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._is_stopping.wait()
            is_last = self._is_stopping.is_set()
            try:
                self._write(is_last=is_last)
                await self._call(is_last=is_last)
            except Exception:  # the sweep goes on, whatever is wrong with telling of it
                _log.exception("alarm_failed")

    def _write(self, *, is_last: bool) -> None:
        for tally in self._for_log.take(is_last=is_last):
            _log.error("deliveries_dead", **msgspec.structs.asdict(tally))

    async def _call(self, *, is_last: bool) -> None:
        if self._webhook is None:
            return
        # While the receiver is away one alarm of each reason waits for it, and what comes later is counted.
        for tally in self._for_webhook.take(held=self._unsent.keys(), is_last=is_last):
            self._unsent[tally.reason] = _Unsent(new_id(), self._text(tally))
        for reason, alarm in list(self._unsent.items()):
            if is_last or time.monotonic() >= alarm.next_at:
                await self._post(self._webhook, reason, alarm)

    async def _post(self, webhook: AlarmWebhook, reason: str, alarm: _Unsent) -> None:
        outcome = await webhook.send(alarm.alarm_id, alarm.text)
        match outcome:
            case Retry(why, after_s, detail):
                if not alarm.failures:
                    _log.warning("alarm_waits", reason=why, detail=detail)
                wait_s = after_s or backoff_s(alarm.failures, first_s=_FIRST_RETRY_S, most_s=self._every_s)
                alarm.next_at = time.monotonic() + wait_s
                alarm.failures += 1
                self._metrics.sweep_alarms.labels("retried").inc()
                return
            case Dead(why, detail):
                _log.error("alarm_refused", reason=why, detail=detail)
                self._metrics.sweep_alarms.labels("refused").inc()
            case _:
                self._metrics.sweep_alarms.labels("sent").inc()
        del self._unsent[reason]

    def _text(self, tally: Tally) -> str:
        body = {
            "type": "notifyd.deliveries_dead",
            "pod": self._settings.pod_name,
            **msgspec.structs.asdict(tally),
        }
        return msgspec.json.encode(body).decode()
