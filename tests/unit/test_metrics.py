"""Many durations observed at once are what they would have been one by one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from notifyd.metrics import Metrics

_ENDS = [0.0, 0.001, 0.25, 1.0, 60.0, 1e9]


def _told(metrics: Metrics) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [
        line
        for line in text.splitlines()
        if line.startswith(("notifyd_ingest_to_stored_seconds_bucket", "notifyd_ingest_to_stored_seconds_co"))
    ]


@given(st.lists(st.one_of(st.sampled_from(_ENDS), st.floats(0, 1e6)), max_size=20))
def test_values_observed_at_once_count_as_one_by_one(values: list[float]) -> None:
    # The seam: `Durations` writes into the buckets of prometheus_client's histogram.
    each, at_once = Metrics(), Metrics()
    for value in values:
        each.ingest_to_stored.observe(value)
    at_once.ingest_to_stored.observe_counts(Counter(values))
    assert _told(at_once) == _told(each)


def test_one_value_counts_as_often_as_it_is_told() -> None:
    metrics = Metrics()
    metrics.accepted_to_final.labels("ws").observe_counts({2.0: 3})
    of = {"channel": "ws"}
    read = metrics.registry.get_sample_value
    assert read("notifyd_accepted_to_final_seconds_count", of) == 3
    assert read("notifyd_accepted_to_final_seconds_sum", of) == 6
    assert read("notifyd_accepted_to_final_seconds_bucket", {**of, "le": "2.5"}) == 3
    assert read("notifyd_accepted_to_final_seconds_bucket", {**of, "le": "1.0"}) == 0
