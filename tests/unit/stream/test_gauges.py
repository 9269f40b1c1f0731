"""How late a partition is, in seconds: by what is in flight, or by what nobody has fetched."""

from __future__ import annotations

import time

import pytest
from faust.types import TP

from notifyd.metrics import Metrics
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.gauges import PartitionGauges
from tests.unit.stream.test_flow import record

LABELS = {"role": "persist", "topic": "t", "partition": "0"}


class _Place:
    """A partition whose broker has `end` as its end."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.metrics = Metrics()
        self.end = 0
        self.flow = PartitionFlow(
            TP("t", 0), window=10, delay_s=delay_s, on_change=lambda: None, on_failure=_raise
        )
        self.flow.start_at(0)
        self.gauges = PartitionGauges(self.metrics, "persist", lambda tp: self.end)

    def late_s(self) -> float | None:
        self.gauges.show([self.flow])
        return self.metrics.registry.get_sample_value("notifyd_lag_seconds", LABELS)


def _raise(error: BaseException) -> None:
    raise error


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_a_partition_with_nothing_to_do_is_not_late(now_s: list[float]) -> None:
    assert _Place().late_s() == 0


def test_what_is_in_flight_is_as_late_as_it_is_old(now_s: list[float]) -> None:
    place = _Place()
    place.flow.take([record(0, timestamp=int((now_s[0] - 7) * 1000))], 1, 0)
    assert place.late_s() == pytest.approx(7)
    place.flow.ack(0)
    assert place.late_s() == 0


def test_what_nobody_fetches_is_late_from_when_it_was_seen(now_s: list[float]) -> None:
    place = _Place()
    place.end = 5
    assert place.late_s() == 0
    now_s[0] += 30
    assert place.late_s() == pytest.approx(30)
    place.end = 0
    assert place.late_s() == 0


def test_a_retry_is_late_only_once_it_was_due(now_s: list[float]) -> None:
    place = _Place(delay_s=60)
    place.flow.take([record(0, timestamp=int((now_s[0] - 10) * 1000))], 1, int(now_s[0] * 1000))
    assert place.late_s() == 0
    now_s[0] += 55
    assert place.late_s() == pytest.approx(5)


def test_a_partition_that_went_to_another_is_not_shown_any_more(now_s: list[float]) -> None:
    place = _Place()
    place.late_s()
    place.gauges.forget(place.flow.tp)
    assert place.metrics.registry.get_sample_value("notifyd_lag_seconds", LABELS) is None
