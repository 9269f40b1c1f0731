"""Dead letters: the original bytes, and headers that say why."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from notifyd.stream.dead_letter import DeadLetters, parse_dead_letter
from notifyd.stream.producer import OutRecord
from notifyd.stream.replay import replay_record
from notifyd.stream.resend import read_resend
from notifyd.stream.topics import Topics, dlq_max_bytes

SETTINGS = load_settings({})


def consumed(
    value: bytes | None = b"v", key: bytes | None = b"k", headers: tuple[tuple[str, bytes], ...] = ()
) -> Any:
    return SimpleNamespace(
        topic="notifyd.messages", partition=3, offset=7, timestamp=1000, key=key, value=value, headers=headers
    )


def dead(record: Any, **more: Any) -> OutRecord:
    letters = DeadLetters(None, Topics.of(SETTINGS), SETTINGS, Metrics(), "inc-1")  # type: ignore[arg-type]
    return letters.record(record, reason="not_json", error="broken", **more)


def headers_of(record: OutRecord) -> dict[str, str]:
    return {name: data.decode() for name, data in record.headers}


def as_read(record: OutRecord) -> Any:
    return SimpleNamespace(
        topic=record.topic, partition=0, offset=9, timestamp=5000, key=record.key, value=record.value,
        headers=record.headers,
    )  # fmt: skip


def test_bytes_key_and_foreign_headers_stay_as_they_were() -> None:
    record = dead(consumed(b"\x00\xff{", b"\xfe", (("traceparent", b"00-x"), ("odd", b"\xff"))))
    assert (record.topic, record.value, record.key) == ("notifyd.dlq", b"\x00\xff{", b"\xfe")
    assert record.headers[:2] == (("traceparent", b"00-x"), ("odd", b"\xff"))
    assert headers_of(dead(consumed())) == {
        "notifyd-reason": "not_json",
        "notifyd-error": "broken",
        "notifyd-attempts": "0",
        "notifyd-first-at": "1000",
        "notifyd-position": "inc-1/notifyd.messages/3/7",
    }


def test_headers_of_an_earlier_death_give_way() -> None:
    record = dead(consumed(headers=(("notifyd-reason", b"old"), ("notifyd-due", b"5"))))
    reasons = [data for name, data in record.headers if name == "notifyd-reason"]
    assert reasons == [b"not_json"]
    assert ("notifyd-due", b"5") in record.headers


def test_it_reads_back_as_it_was_written() -> None:
    letter = parse_dead_letter(
        as_read(dead(consumed(), attempts=4, first_at_ms=77, channel="webhook", user="zoë"))
    )
    assert (letter.reason, letter.error, letter.attempts, letter.first_at_ms) == ("not_json", "broken", 4, 77)
    assert (letter.channel, letter.user) == ("webhook", "zoë")
    assert letter.position == "inc-1/notifyd.messages/3/7"
    assert letter.value == b"v"


def test_a_record_that_somebody_else_put_there_is_read_too() -> None:
    record = SimpleNamespace(
        topic="d", partition=0, offset=1, timestamp=2, key=None, value=None,
        headers=(("notifyd-attempts", b"many"), ("notifyd-error", b"\xff"), ("x", None)),
    )  # fmt: skip
    letter = parse_dead_letter(record)
    assert (letter.reason, letter.attempts, letter.first_at_ms, letter.value) == ("", 0, None, None)


def test_what_does_not_fit_keeps_its_start_its_digest_and_its_position() -> None:
    value = b"ab" * dlq_max_bytes(SETTINGS)
    record = dead(consumed(value))
    found = headers_of(record)
    assert record.value is not None
    assert value.startswith(record.value)
    assert len(record.value) == 64 * 1024
    assert found["notifyd-sha256"] == hashlib.sha256(value).hexdigest()
    assert found["notifyd-bytes"] == str(len(value))
    assert found["notifyd-position"] == "inc-1/notifyd.messages/3/7"
    assert record.key == b"k"


def test_headers_and_keys_that_do_not_fit_are_cut_as_well() -> None:
    huge = b"x" * dlq_max_bytes(SETTINGS)
    by_header = dead(consumed(headers=(("big", huge),)))
    assert by_header.value == b"v"
    assert "big" not in dict(by_header.headers)
    by_key = dead(consumed(key=huge))
    assert by_key.key is not None
    assert len(by_key.key) == 64 * 1024


def test_a_long_error_is_cut_and_a_record_of_nothing_can_still_be_written() -> None:
    letters = DeadLetters(None, Topics.of(SETTINGS), SETTINGS, Metrics(), "i")  # type: ignore[arg-type]
    record = letters.record(consumed(None, None), reason="empty", error="x" * 5000)
    assert record.value == b""
    assert len(headers_of(record)["notifyd-error"]) == 1000


def test_what_is_replayed_goes_on_in_the_trace_of_its_producer() -> None:
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    value = b'{"UUID": "019AAB3E-6f0c-7d44-9f6a-0d1f5a2b9c11"}'
    topics = Topics.of(SETTINGS)
    for one in ({"channel": "stub", "user": "alice"}, {}):
        letter = parse_dead_letter(as_read(dead(consumed(value, headers=(trace,)), **one)))
        record = replay_record(letter, topics, "run-1")
        assert isinstance(record, OutRecord)
        assert record.topic == (topics.resend if one else topics.messages)
        assert trace in record.headers
        if one:
            assert read_resend(record).user == "alice"
