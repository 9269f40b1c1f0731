from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Any

import pytest

from notifyd.errors import InvalidMessage
from notifyd.message.envelope import Limits, decode, find_faults, new_id, public_envelope
from notifyd.message.text import MAX_DEPTH
from notifyd.settings import Settings

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_S = 86_400
V4 = "7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6"
LIMITS = Limits()
MISSING = object()


def v7(at: dt.datetime) -> str:
    text = f"{int(at.timestamp() * 1000):012x}"
    return f"{text[:8]}-{text[8:]}-7abc-8def-0123456789ab"


def fields(**changes: Any) -> dict[str, Any]:
    base = {
        "from": "orders",
        "UUID": V4,
        "content": {"version": 1.1, "title": "Hi"},
        "toUserIds": ["alice", "bob"],
        "createBy": "orders-svc",
        "createDateTime": "2026-11-23T10:00:00Z",
    }
    if "sender" in changes:
        changes["from"] = changes.pop("sender")
    return {name: part for name, part in (base | changes).items() if part is not MISSING}


def envelope(**changes: Any) -> bytes:
    return json.dumps(fields(**changes)).encode()


def read(value: bytes | None, *, limits: Limits = LIMITS, is_exempt: bool = False):
    return decode(value, timestamp_ms=NOW_MS, limits=limits, is_exempt=is_exempt)


def fault_of(value: bytes | None, *, limits: Limits = LIMITS) -> InvalidMessage:
    """The one fault of a value, on which decode and find_faults agree; it says all it has to."""
    with pytest.raises(InvalidMessage) as caught:
        _ = read(value, limits=limits).content
    found = find_faults(value, timestamp_ms=NOW_MS, limits=limits)
    assert [(f.field, f.rule, f.reason) for f in found] == [
        (caught.value.field, caught.value.rule, caught.value.reason)
    ]
    assert found[0].rule
    assert found[0].remedy
    return found[0]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"sender": MISSING}, "from", "missing_field"),
        ({"UUID": MISSING}, "UUID", "missing_field"),
        ({"content": MISSING}, "content", "missing_field"),
        ({"toUserIds": MISSING}, "toUserIds", "missing_field"),
        ({"createBy": MISSING}, "createBy", "missing_field"),
        ({"createDateTime": MISSING}, "createDateTime", "missing_field"),
        ({"sender": 7}, "from", "wrong_type"),
        ({"sender": None}, "from", "wrong_type"),
        ({"UUID": 7}, "UUID", "wrong_type"),
        ({"content": "text"}, "content", "wrong_type"),
        ({"content": []}, "content", "wrong_type"),
        ({"content": None}, "content", "wrong_type"),
        ({"toUserIds": "alice"}, "toUserIds", "wrong_type"),
        ({"toUserIds": {"alice": 1}}, "toUserIds", "wrong_type"),
        ({"createBy": ["x"]}, "createBy", "wrong_type"),
        ({"createDateTime": 1795431600}, "createDateTime", "wrong_type"),
        ({"UUID": ""}, "UUID", "bad_uuid"),
        ({"UUID": "not-a-uuid"}, "UUID", "bad_uuid"),
        ({"UUID": V4.replace("-", "")}, "UUID", "bad_uuid"),
        ({"UUID": "{" + V4 + "}"}, "UUID", "bad_uuid"),
        ({"UUID": V4 + "\n"}, "UUID", "bad_uuid"),
        ({"UUID": V4[:-1] + "g"}, "UUID", "bad_uuid"),
        ({"UUID": V4[:-1] + "٣"}, "UUID", "bad_uuid"),
        ({"toUserIds": []}, "toUserIds", "no_recipients"),
        ({"toUserIds": ["u"] * 1001}, "toUserIds", "too_many_recipients"),
        ({"toUserIds": ["a", ""]}, "toUserIds[1]", "bad_user_id"),
        ({"toUserIds": ["a", "b", 42]}, "toUserIds[2]", "bad_user_id"),
        ({"toUserIds": [None]}, "toUserIds[0]", "bad_user_id"),
        ({"toUserIds": ["x" * 129]}, "toUserIds[0]", "bad_user_id"),
        ({"toUserIds": ["a", "b\0"]}, "toUserIds[1]", "nul"),
        ({"sender": "a\0"}, "from", "nul"),
        ({"content": {"title": "a\0"}}, "content.title", "nul"),
        ({"content": {"data": [1, {"k": "a\0"}]}}, "content.data[1].k", "nul"),
        ({"content": {"data": {"k\0": 1}}}, "content.data", "nul"),
        ({"x": {"y": "\0"}}, "x.y", "nul"),
        ({"createDateTime": "yesterday"}, "createDateTime", "bad_date"),
        ({"createDateTime": ""}, "createDateTime", "bad_date"),
        ({"createDateTime": "2026-11-23T10:00:00"}, "createDateTime", "bad_date"),
        ({"createDateTime": "2026-11-23T10:00Z"}, "createDateTime", "bad_date"),
        ({"createDateTime": "2026-02-30"}, "createDateTime", "bad_date"),
        ({"createDateTime": "2026-W48-1"}, "createDateTime", "bad_date"),
        ({"createDateTime": "20261123"}, "createDateTime", "bad_date"),
        ({"createDateTime": "23.11.2026"}, "createDateTime", "bad_date"),
        ({"createDateTime": "2099-01-01"}, "createDateTime", "date_out_of_range"),
        ({"createDateTime": "1999-01-01T00:00:00Z"}, "createDateTime", "date_out_of_range"),
        ({"createDateTime": "0001-01-01T00:00:00+01:00"}, "createDateTime", "date_out_of_range"),
        ({"createDateTime": "9999-12-31T23:59:59-01:00"}, "createDateTime", "date_out_of_range"),
        ({"UUID": v7(NOW), "createDateTime": "2099-01-01"}, "createDateTime", "date_out_of_range"),
        ({"UUID": v7(NOW + dt.timedelta(days=3))}, "UUID", "date_out_of_range"),
        ({"UUID": v7(NOW - dt.timedelta(days=9))}, "UUID", "date_out_of_range"),
        ({"UUID": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, "UUID", "date_out_of_range"),
    ],
)
def test_each_fault_names_its_field_and_reason(changes: dict[str, Any], field: str, reason: str) -> None:
    fault = fault_of(envelope(**changes))
    assert (fault.field, fault.reason) == (field, reason)


GOOD = envelope()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" ", "not_json"),
        (b"garbage", "not_json"),
        (b"\xff\xfe\x00", "not_json"),
        (b"\x00\x01\x02garbage\x00", "not_json"),
        (GOOD[:-1], "not_json"),
        (GOOD[:40], "not_json"),
        (GOOD + b"x", "not_json"),
        (GOOD + GOOD, "not_json"),
        (b"\xef\xbb\xbf" + GOOD, "not_json"),
        (GOOD.replace(b"Hi", b"\xff"), "not_json"),
        (GOOD.replace(b"Hi", b"\xed\xa0\x80"), "not_json"),
        (GOOD.replace(b"Hi", b"\\ud800"), "not_json"),
        (GOOD.replace(b"Hi", b"\\udc00x"), "not_json"),
        (GOOD.replace(b"Hi", b"\\ud83dx"), "not_json"),
        (GOOD.replace(b"1.1", b"NaN"), "not_json"),
        (GOOD.replace(b"1.1", b"-Infinity"), "not_json"),
        (GOOD.replace(b"1.1", b"01"), "not_json"),
        (GOOD.replace(b"Hi", b"a\nb"), "not_json"),
        (GOOD.replace(b'"Hi"', b"[" * 100_000), "not_json"),
        (GOOD.replace(b'"Hi"', b"[" * 100_000 + b"]" * 100_000), "not_json"),
        (
            GOOD.replace(b'"from"', b'"x":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b',"from"'),
            "not_json",
        ),
        (b"[" + GOOD + b"]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"42", "not_an_object"),
        (b'"\\u0000"', "not_an_object"),
        (b" " * 300_000, "too_large"),
        (GOOD.replace(b"Hi", b"\x00"), "nul"),
        (GOOD.replace(b"alice", b"al\x00ice"), "nul"),
        (GOOD + b"\x00", "nul"),
    ],
)
def test_a_value_that_is_no_envelope_is_refused_whole(value: bytes | None, reason: str) -> None:
    assert fault_of(value).reason == reason


def test_a_raw_nul_within_text_is_found_where_it_is() -> None:
    assert fault_of(GOOD.replace(b"alice", b"al\x00ice")).field == "toUserIds[0]"


def test_an_escaped_backslash_before_u0000_is_text_like_any_other() -> None:
    assert read(GOOD.replace(b"Hi", b"\\\\u0000")).content.title == "\\u0000"
    assert fault_of(GOOD.replace(b"Hi", b"\\\\\\u0000")).reason == "nul"


def test_all_faults_of_an_envelope_are_found_at_once() -> None:
    value = envelope(UUID="x", toUserIds=["", "b" * 200], createDateTime="x", content={"ttl": -1, "title": 3})
    found = find_faults(value, timestamp_ms=NOW_MS, limits=LIMITS)
    assert [(fault.field, fault.reason) for fault in found] == [
        ("UUID", "bad_uuid"),
        ("toUserIds[0]", "bad_user_id"),
        ("toUserIds[1]", "bad_user_id"),
        ("createDateTime", "bad_date"),
        ("content.title", "bad_content"),
        ("content.ttl", "bad_content"),
    ]


@pytest.mark.parametrize(
    ("wrong", "right"), [("uuid", "UUID"), ("touserids", "toUserIds"), ("createdBy", "createBy")]
)
def test_the_remedy_for_a_missing_field_knows_the_key_that_was_meant(wrong: str, right: str) -> None:
    parts = fields()
    parts[wrong] = parts.pop(right)
    fault = fault_of(json.dumps(parts).encode())
    assert (fault.field, fault.remedy) == (right, f'rename "{wrong}" to "{right}"')


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 2, MAX_DEPTH - 1])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_taken_to_its_limit_and_not_beyond(levels: int, opening: str) -> None:
    # The envelope and `content` are two levels of their own.
    closing = "]" if opening == "[" else "}"
    nested = opening * levels + "1" + closing * levels
    value = GOOD.replace(b'"Hi"', b'"Hi", "data": ' + nested.encode())
    if levels <= MAX_DEPTH - 2:
        assert read(value).content.data is not None
    else:
        fault = fault_of(value)
        assert (fault.reason, fault.rule) == ("not_json", f"nests deeper than {MAX_DEPTH} levels")


def test_many_brackets_side_by_side_or_within_text_are_not_depth() -> None:
    read(envelope(content={"data": [{"a": [{"b": []}]}] * 500, "title": '[[{{"\\"' * 200}))


def test_decode_does_not_depend_on_how_deep_its_caller_stands() -> None:
    value = envelope(content={"data": json.loads("[" * 60 + "]" * 60)})

    def descend(levels: int) -> int:
        return descend(levels - 1) if levels else len(read(value).content.channels)

    assert descend(sys.getrecursionlimit() // 2) == 1


@pytest.mark.parametrize(
    "message_id",
    [
        V4,
        V4.upper(),
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "2489e9ad-2ee2-8e00-8ec9-32d5f69181c0",
    ],
)
def test_any_uuid_of_the_rfc_is_taken_and_told_in_lower_case(message_id: str) -> None:
    message = read(envelope(UUID=message_id))
    assert message.id == message_id.lower()
    assert not message.is_time_ordered
    assert message.day == dt.date(2026, 11, 23)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00+00:00"),
        ("2026-11-23t10:00:00z", "2026-11-23T10:00:00+00:00"),
        ("2026-11-23T10:00:00.1239Z", "2026-11-23T10:00:00.123+00:00"),
        ("2026-11-24T01:00:00+14:00", "2026-11-23T11:00:00+00:00"),
        ("2026-11-23T05:59:60Z", "2026-11-23T06:00:00+00:00"),
    ],
)
def test_a_date_or_a_time_of_rfc_3339_is_taken(text: str, at: str) -> None:
    message = read(envelope(createDateTime=text))
    assert message.created_at_ms == int(dt.datetime.fromisoformat(at).timestamp() * 1000)
    assert message.day == dt.date(2026, 11, 23)


def test_the_day_of_a_time_ordered_id_beats_the_date() -> None:
    message = read(envelope(UUID=v7(NOW - dt.timedelta(days=2)), createDateTime="2020-01-01"))
    assert message.day == dt.date(2026, 11, 21)
    assert message.is_time_ordered


@pytest.mark.parametrize(("days", "is_good"), [(-8, False), (-7, True), (0, True), (1, True), (2, False)])
@pytest.mark.parametrize("is_v7", [True, False])
def test_days_count_from_the_retention_to_a_day_ahead_of_the_record(
    days: int, is_good: bool, is_v7: bool
) -> None:
    at = NOW + dt.timedelta(days=days)
    value = envelope(UUID=v7(at)) if is_v7 else envelope(createDateTime=at.date().isoformat())
    if is_good:
        assert read(value).day == at.date()
    else:
        assert fault_of(value).reason == "date_out_of_range"


def test_the_record_s_time_is_what_counts_and_not_ours() -> None:
    long_ago = dt.datetime(2001, 9, 9, tzinfo=dt.UTC)
    value = envelope(createDateTime="2001-09-09")
    message = decode(value, timestamp_ms=int(long_ago.timestamp() * 1000), limits=LIMITS)
    assert message.day == long_ago.date()


def test_a_retry_is_exempt_from_limits_of_time_but_not_from_the_others() -> None:
    value = envelope(createDateTime="2020-01-01", content={"ttl": "30d", "notBefore": "2027-11-23T10:00:00Z"})
    message = read(value, is_exempt=True)
    assert message.day == dt.date(2020, 1, 1)
    assert message.content.ttl_s == 30 * DAY_S
    with pytest.raises(InvalidMessage):
        read(envelope(UUID="x"), is_exempt=True)
    with pytest.raises(InvalidMessage, match="beyond the years"):
        read(envelope(UUID="ffffffff-ffff-7fff-bfff-ffffffffffff"), is_exempt=True)


def test_recipients_keep_their_order_and_lose_their_doubles() -> None:
    assert read(envelope(toUserIds=["c", "a", "c", "b", "a"])).recipients == ("c", "a", "b")


def test_a_user_id_is_counted_in_characters() -> None:
    assert read(envelope(toUserIds=["é" * 128, "🚀"])).recipients[1] == "🚀"


def test_a_thousand_recipients_fit() -> None:
    users = [f"u{number}" for number in range(1000)]
    assert read(envelope(toUserIds=users)).recipients == tuple(users)


def test_limits_come_from_the_settings() -> None:
    settings = Settings(
        message_max_bytes=400,
        message_max_recipients=1,
        message_max_user_id_chars=5,
        message_max_ahead_s=0,
        topic_retention_s=3600,
    )
    limits = Limits.of(settings)
    assert limits == Limits(400, 1, 5, 0.0, 3600.0)
    assert fault_of(envelope(content={"title": "x" * 400}), limits=limits).reason == "too_large"
    assert fault_of(envelope(), limits=limits).reason == "too_many_recipients"
    assert fault_of(envelope(toUserIds=["alice1"]), limits=limits).reason == "bad_user_id"
    yesterday = envelope(toUserIds=["alice"], createDateTime="2026-11-22")
    assert fault_of(yesterday, limits=limits).reason == "date_out_of_range"


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    twice = GOOD.replace(b'"from"', b'"from": 7, "UUID": "x", "toUserIds": [], "from"')
    assert read(twice).id == V4
    assert find_faults(twice, timestamp_ms=NOW_MS, limits=LIMITS) == []


def test_keys_may_be_escaped() -> None:
    assert read(GOOD.replace(b'"from"', b'"\\u0066rom"')).sender == "orders"


def test_numbers_that_no_float_holds_are_nobody_s_fault() -> None:
    value = GOOD.replace(b'"Hi"', b'"Hi", "data": [1e999, ' + b"9" * 5000 + b"]")
    assert read(value).content.data is not None


def test_the_original_bytes_stay_with_the_message() -> None:
    value = b"\n  " + GOOD + b" \n"
    message = read(value)
    assert message.raw is value
    assert message.content_raw == b'{"version": 1.1, "title": "Hi"}'
    assert len(message.digest) == 32
    assert message.digest != read(GOOD).digest


def test_a_message_shows_no_content_in_its_repr() -> None:
    message = read(envelope(content={"title": "secret", "contacts": {"alice": {"email": ["secret"]}}}))
    assert "secret" not in repr(message) + repr(message.content)
    assert V4 in repr(message)


def test_faults_of_content_wait_until_it_is_read() -> None:
    message = read(envelope(content={"ttl": -1}))
    for _ in range(2):
        with pytest.raises(InvalidMessage, match=r"content\.ttl"):
            _ = message.content


def test_a_client_sees_no_other_user_and_no_address() -> None:
    contacts = {"alice": {"email": ["alice@example.com"]}}
    value = envelope(UUID=V4.upper(), content={"title": "Hi", "contacts": contacts}, x=1)
    public = json.loads(public_envelope(read(value)))
    assert public == {
        "from": "orders",
        "UUID": V4,
        "content": {"title": "Hi"},
        "createBy": "orders-svc",
        "createDateTime": "2026-11-23T10:00:00Z",
        "x": 1,
    }


@pytest.mark.parametrize("key", [b'"contacts"', b'"c\\u006fntacts"', b'"contacts": null, "contacts"'])
@pytest.mark.parametrize("version", [b"1.1", b'"7.0"'])
def test_addresses_stay_hidden_however_their_key_is_written(key: bytes, version: bytes) -> None:
    hidden = b'"title": "Hi", ' + key + b': {"alice": {"email": ["secret"]}}'
    value = GOOD.replace(b'"title": "Hi"', hidden).replace(b"1.1", version)
    assert b"secret" not in public_envelope(read(value))


def test_what_a_client_sees_is_one_line() -> None:
    value = json.dumps(fields(content={"data": {"a": ["x\ny"]}}), indent=2).replace("\n", "\r\n").encode()
    public = public_envelope(read(value))
    assert b"\n" not in public
    assert b"\r" not in public
    assert json.loads(public)["content"]["data"] == {"a": ["x\ny"]}


def test_a_client_may_be_shown_cast_content() -> None:
    public = public_envelope(read(GOOD), b'{"version": 1.0, "contacts": {}}')
    assert json.loads(public)["content"] == {"version": 1.0}


def test_our_ids_are_of_version_7_and_rise() -> None:
    ids = [new_id() for _ in range(2000)]
    assert ids == sorted(set(ids))
    now = dt.datetime.now(dt.UTC)
    message = decode(
        envelope(UUID=ids[0]), timestamp_ms=int(now.timestamp() * 1000), limits=LIMITS, is_exempt=True
    )
    assert message.is_time_ordered
    assert message.day in {(now - dt.timedelta(minutes=1)).date(), now.date()}
