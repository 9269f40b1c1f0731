"""What `notifyd dlq ls` makes of a dead letter."""

from __future__ import annotations

import base64
import dataclasses

from notifyd.cli.dlq import _line
from notifyd.stream.dead_letter import DeadLetter
from notifyd.stream.dead_letter_view import describe

LETTER = DeadLetter(
    topic="notifyd.dlq",
    partition=0,
    offset=9,
    timestamp_ms=1_763_892_000_000,
    key=None,
    value=b'{"UUID": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11"',
    reason="not_json",
    error="ends too\nearly",
    attempts=0,
    first_at_ms=1_763_892_000_123,
    position="inc/a.b.messages/3/1842",
    channel=None,
    user=None,
    headers=(),
)


def test_the_place_is_that_of_the_original_record_and_a_cut_value_still_tells_its_id() -> None:
    assert describe(LETTER) == {
        "place": "0:9",
        "reason": "not_json",
        "error": "ends too\nearly",
        "topic": "a.b.messages",
        "partition": 3,
        "offset": 1842,
        "attempts": 0,
        "first_at": "2025-11-23T10:00:00.123Z",
        "id": "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        "user": None,
        "channel": None,
    }


def test_raw_adds_the_bytes_as_they_were() -> None:
    letter = dataclasses.replace(LETTER, value=b"\x00\xff")
    assert base64.b64decode(describe(letter, with_value=True)["value_base64"]) == b"\x00\xff"
    assert describe(dataclasses.replace(LETTER, value=None), with_value=True)["value_base64"] is None


def test_a_letter_without_our_headers_shows_where_it_lies() -> None:
    item = describe(
        dataclasses.replace(LETTER, position="", first_at_ms=None, value=b'{"UUID": 7}', reason="")
    )
    assert (item["topic"], item["partition"], item["offset"]) == ("notifyd.dlq", 0, 9)
    assert item["first_at"] == "2025-11-23T10:00:00.000Z"
    assert item["id"] is None


def test_a_line_for_people_is_one_line() -> None:
    item = describe(dataclasses.replace(LETTER, channel="webhook", user="alice", attempts=8))
    assert _line(item) == (
        "0:9 2025-11-23T10:00:00.123Z not_json 019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11 "
        "a.b.messages 3:1842 webhook:alice after 8 attempts  ends too early"
    )


def test_a_time_out_of_range_is_shown_as_it_is() -> None:
    assert describe(dataclasses.replace(LETTER, first_at_ms=10**18))["first_at"] == str(10**18)
