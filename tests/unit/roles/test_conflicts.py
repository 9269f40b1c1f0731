"""What `deliver` can tell of ids that two messages have."""

from __future__ import annotations

import time
from typing import Any

from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits, Message, decode
from notifyd.message.ids import new_id
from notifyd.roles.conflicts import RecentIds, Told


class _Record:
    def __init__(self, partition: int, offset: int) -> None:
        self.partition = partition
        self.offset = offset


def at(partition: int, offset: int) -> Any:
    return _Record(partition, offset)


def message(message_id: str, title: str) -> Message:
    raw = build_envelope(
        to="alice", title=title, sender="t", created_by="t", id=message_id, created_at="2026-11-24T00:00:00Z"
    )
    return decode(raw, timestamp_ms=int(time.time() * 1000), limits=Limits(), is_exempt=True)


ID = new_id()
FIRST, OTHER = message(ID, "first"), message(ID, "other")


def test_other_bytes_later_in_the_same_partition_are_told() -> None:
    recent = RecentIds()
    assert recent.tell(at(0, 5), FIRST) is Told.FRESH
    assert recent.tell(at(0, 9), OTHER) is Told.CONFLICT
    assert recent.tell(at(0, 12), OTHER) is Told.CONFLICT


def test_the_same_bytes_again_are_a_double() -> None:
    recent = RecentIds()
    assert recent.tell(at(0, 5), FIRST) is Told.FRESH
    assert recent.tell(at(0, 9), FIRST) is Told.DOUBLE
    # Read again, as after a rebalance.
    assert recent.tell(at(0, 5), FIRST) is Told.FRESH
    assert recent.tell(at(0, 9), FIRST) is Told.DOUBLE


def test_what_is_released_later_is_no_double_of_what_was_passed_over() -> None:
    recent = RecentIds()
    assert recent.tell(at(0, 5), FIRST, begins=False) is Told.FRESH
    assert recent.tell(at(0, 9), FIRST) is Told.FRESH
    assert recent.tell(at(0, 12), FIRST) is Told.DOUBLE
    assert recent.tell(at(0, 9), FIRST) is Told.FRESH


def test_what_was_set_aside_may_be_replayed() -> None:
    recent = RecentIds()
    recent.tell(at(0, 5), FIRST)
    recent.forget(at(0, 5), ID)
    assert recent.tell(at(0, 9), FIRST) is Told.FRESH


def test_of_two_partitions_nobody_is_told() -> None:
    recent = RecentIds()
    assert recent.tell(at(1, 5), OTHER) is Told.FRESH
    assert recent.tell(at(0, 9), FIRST) is Told.FRESH


def test_after_reading_further_back_the_lowest_offset_is_the_first() -> None:
    recent = RecentIds()
    assert recent.tell(at(0, 9), OTHER) is Told.FRESH
    assert recent.tell(at(0, 5), FIRST) is Told.FRESH
    assert recent.tell(at(0, 9), OTHER) is Told.CONFLICT


def test_what_is_remembered_is_bounded() -> None:
    recent = RecentIds(size=2)
    assert recent.tell(at(0, 1), FIRST) is Told.FRESH
    for offset in (2, 3):
        assert recent.tell(at(0, offset), message(new_id(), "x")) is Told.FRESH
    assert recent.tell(at(0, 4), OTHER) is Told.FRESH
