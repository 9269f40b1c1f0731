from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from faust.types import TP

from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits
from notifyd.roles.jobs import RetryJobs
from notifyd.settings import load_settings
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.retry import RetryOrder, retry_record
from notifyd.stream.topics import Topics

VALUE = build_envelope(to=["alice", "bob"], title="Hi", sender="tests", created_by="tests")


def flow_of() -> PartitionFlow:
    flow = PartitionFlow(TP("retry", 0), window=10, on_change=lambda: None, on_failure=lambda error: None)
    flow.start_at(0)
    return flow


def record_of(**changes: Any) -> SimpleNamespace:
    fields: dict[str, Any] = {
        "channel": "webhook",
        "users": ("alice", "bob"),
        "attempt": 2,
        "due_ms": 1000,
        "first_at_ms": 1,
    }
    order = RetryOrder(**{**fields, **changes})
    topics = Topics.of(load_settings({}))
    out = retry_record(SimpleNamespace(value=VALUE, key=b"k", headers=()), topics, "5s", order)
    return SimpleNamespace(value=out.value, key=out.key, headers=out.headers, timestamp=1, topic=out.topic)


def jobs() -> RetryJobs:
    return RetryJobs(Limits.of(load_settings({})))


def test_a_copy_does_nothing_while_the_first_is_under_way_and_after_it_is_settled() -> None:
    retries, flow = jobs(), flow_of()
    first = retries.read(record_of(), flow)
    assert [user for user, _ in first.pairs] == ["alice", "bob"]
    # Written twice, a moment apart: only its due time differs.
    assert retries.read(record_of(due_ms=1040), flow).pairs == ()
    retries.settled(first)
    assert retries.read(record_of(due_ms=1040), flow).pairs == ()


def test_what_was_cut_short_with_its_partition_is_taken_up_again() -> None:
    retries, flow = jobs(), flow_of()
    retries.read(record_of(), flow)
    flow.close()
    assert len(retries.read(record_of(), flow_of()).pairs) == 2


def test_what_is_to_come_again_may_come_again() -> None:
    retries, flow = jobs(), flow_of()
    job = retries.read(record_of(), flow)
    retries.put_back(job)
    assert len(retries.read(record_of(), flow).pairs) == 2


def test_the_next_attempt_and_an_attempt_put_off_are_no_copies() -> None:
    retries, flow = jobs(), flow_of()
    for changes in ({}, {"deferrals": 1}, {"attempt": 3}, {"run": "another"}, {"channel": "email"}):
        job = retries.read(record_of(**changes), flow)
        assert len(job.pairs) == 2
        retries.settled(job)


def test_of_users_that_share_a_record_only_the_settled_ones_are_passed_over() -> None:
    retries, flow = jobs(), flow_of()
    retries.settled(retries.read(record_of(users=("alice",)), flow))
    assert retries.read(record_of(), flow).pairs == (("bob", "webhook"),)
