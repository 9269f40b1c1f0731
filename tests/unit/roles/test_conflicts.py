"""What `deliver` can tell of ids that two messages have."""

from __future__ import annotations

import time
from typing import Any

from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits, Message, decode
from notifyd.message.ids import new_id
from notifyd.roles.conflicts import RecentIds


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
    assert not recent.is_taken(at(0, 5), FIRST)
    assert recent.is_taken(at(0, 9), OTHER)
    assert recent.is_taken(at(0, 12), OTHER)


def test_the_same_bytes_again_are_none() -> None:
    recent = RecentIds()
    assert not recent.is_taken(at(0, 5), FIRST)
    assert not recent.is_taken(at(0, 5), FIRST)
    assert not recent.is_taken(at(0, 9), FIRST)


def test_of_two_partitions_nobody_is_told() -> None:
    recent = RecentIds()
    assert not recent.is_taken(at(1, 5), OTHER)
    assert not recent.is_taken(at(0, 9), FIRST)


def test_after_reading_further_back_the_lowest_offset_is_the_first() -> None:
    recent = RecentIds()
    assert not recent.is_taken(at(0, 9), OTHER)
    assert not recent.is_taken(at(0, 5), FIRST)
    assert recent.is_taken(at(0, 9), OTHER)


def test_what_is_remembered_is_bounded() -> None:
    recent = RecentIds(size=2)
    assert not recent.is_taken(at(0, 1), FIRST)
    for offset in (2, 3):
        assert not recent.is_taken(at(0, offset), message(new_id(), "x"))
    assert not recent.is_taken(at(0, 4), OTHER)
