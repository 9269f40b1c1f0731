"""Signals on their way to the signals topic: gathered for a moment, a record per user and session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from notifyd.delivery.signal import MAX_IDS, Changed, EndSignal, StateSignal, encode_signal
from notifyd.errors import NotifydError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.topics import Topics

#: Ids handed over and not yet with the broker, at most; above it they are dropped and counted.
MAX_POSTED: Final = 20_000

_log = get_logger()


class SignalWriter:
    """`SignalSink` over Kafka: one write at a time, so that the signals of a user keep their order.

    What comes while the broker is away waits, up to `MAX_POSTED` ids; nobody waits for it.
    """

    def __init__(self, producer: Producer, topics: Topics, settings: Settings, metrics: Metrics) -> None:
        self._producer = producer
        self._topic = topics.signals
        self._linger_s = settings.events_linger_s
        self._metrics = metrics
        self._waiting: dict[tuple[str, Changed, str], dict[str, None]] = {}
        self._posted = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_dropping = False
        self._is_stopped = False

    def post(self, user: str, changed: Changed, ids: Sequence[str], by: str) -> None:
        """Hand over ids that the session `by` changed; those above the bound are dropped and counted."""
        if self._is_stopped or self._posted + len(ids) > MAX_POSTED:
            self._drop("stopped" if self._is_stopped else "buffer_full", len(ids))
            return
        known = self._waiting.setdefault((user, changed, by), {})
        before = len(known)
        known.update(dict.fromkeys(ids))
        self._posted += len(known) - before
        if self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger_s, self._begin)

    async def stop(self) -> None:
        """Send what is there, and wait for it; a cancel gives it up."""
        self._is_stopped = True
        self._begin()
        if self._task is None:
            return
        try:
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._write(), name="signals")

    async def _write(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                await self._write_once(waiting)
        finally:
            self._task = None

    async def _write_once(self, waiting: dict[tuple[str, Changed, str], dict[str, None]]) -> None:
        count = sum(map(len, waiting.values()))
        records = [
            OutRecord(self._topic, encode_signal(signal), key=user.encode())
            for (user, changed, by), known in waiting.items()
            for signal in _signals(list(known), changed, by)
        ]
        try:
            await self._producer.send_held(records)
        except NotifydError as error:
            self._drop(error.reason, count)
        else:
            self._is_dropping = False
            self._metrics.signals_written.inc(len(records))
        finally:
            self._posted -= count

    def _drop(self, reason: str, count: int) -> None:
        self._metrics.signals_dropped.labels(reason).inc(count)
        if not self._is_dropping:
            self._is_dropping = True
            _log.warning("signals_dropped", reason=reason)


async def end_sessions(producer: Producer, topics: Topics, user: str, before_ms: int) -> None:
    """End the sessions of a user whose tokens were issued before a moment; raises as `Producer.send`."""
    value = encode_signal(EndSignal(before=before_ms))
    await producer.send(OutRecord(topics.signals, value, key=user.encode()))


def _signals(ids: list[str], changed: Changed, by: str) -> list[StateSignal]:
    return [StateSignal(ids=ids[at : at + MAX_IDS], set=changed, by=by) for at in range(0, len(ids), MAX_IDS)]
