"""What the partitions of a consumer show of themselves: lag, records in flight, their age."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from faust.types import TP

from notifyd.metrics import Metrics
from notifyd.stream.flow import PartitionFlow


class PartitionGauges:
    """Gauges of each partition that is ours; `highwater` tells the offset after the last record."""

    def __init__(self, metrics: Metrics, role: str, highwater: Callable[[TP], int]) -> None:
        self._metrics = metrics
        self._role = role
        self._highwater = highwater
        #: Since when records wait at the broker while none is in flight (ms since 1970).
        self._unread_since: dict[TP, float] = {}

    def show(self, flows: Iterable[PartitionFlow]) -> None:
        """Set the gauges to what is true now."""
        now_ms = time.time() * 1000
        for flow in flows:
            labels = self._labels(flow.tp)
            oldest_ms = flow.oldest_ms()
            age_s = max(0.0, now_ms - oldest_ms) / 1000 if oldest_ms else 0
            self._metrics.oldest.labels(*labels).set(age_s)
            self._metrics.in_flight.labels(*labels).set(flow.in_flight)
            if flow.position is not None:
                unread = max(0, self._highwater(flow.tp) - flow.position)
                self._metrics.lag.labels(*labels).set(unread + flow.in_flight)
                late_ms = now_ms - self._waiting_since(flow, oldest_ms, unread, now_ms)
                self._metrics.lag_seconds.labels(*labels).set(max(0.0, late_ms) / 1000)

    def _waiting_since(self, flow: PartitionFlow, oldest_ms: int | None, unread: int, now_ms: float) -> float:
        """When the oldest record that is not done was due (ms since 1970); `now_ms` where there is none.

        What was not fetched tells no timestamp: it is as old as our knowledge of it, at the least.
        """
        if oldest_ms:
            self._unread_since.pop(flow.tp, None)
            return oldest_ms + flow.delay_ms
        if not unread:
            self._unread_since.pop(flow.tp, None)
            return now_ms
        return self._unread_since.setdefault(flow.tp, now_ms)

    def forget(self, tp: TP) -> None:
        """A partition that is another's now must not show our last figures for ever."""
        self._unread_since.pop(tp, None)
        metrics = self._metrics
        for gauge in (metrics.in_flight, metrics.lag, metrics.lag_seconds, metrics.oldest):
            with contextlib.suppress(KeyError):
                gauge.remove(*self._labels(tp))

    def _labels(self, tp: TP) -> tuple[str, str, str]:
        return (self._role, tp.topic, str(tp.partition))
