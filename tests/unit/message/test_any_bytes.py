"""Whatever the bytes: a message, or one InvalidMessage; and both ways of judging agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifyd.errors import InvalidMessage
from notifyd.message.build import build_envelope
from notifyd.message.content import Content
from notifyd.message.envelope import Limits, Message, _decode_quickly, decode, find_faults, public_envelope
from notifyd.message.versions import NEWEST, cast, names_of

AT_MS = 1795435200000  # 2026-11-23T12:00:00Z
LIMITS = Limits(max_bytes=2048, max_recipients=5, max_user_id_chars=8)
REASONS = {
    "empty",
    "too_large",
    "not_json",
    "not_an_object",
    "missing_field",
    "wrong_type",
    "bad_uuid",
    "nul",
    "no_recipients",
    "too_many_recipients",
    "bad_user_id",
    "bad_date",
    "date_out_of_range",
    "bad_content",
}

GOOD: dict[str, Any] = {
    "from": "orders",
    "UUID": "7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6",
    "content": {"version": 1.1, "title": "Hi", "ttl": "15m", "channels": ["ws", "webhook"]},
    "toUserIds": ["alice", "bob"],
    "createBy": "orders-svc",
    "createDateTime": "2026-11-23T10:00:00Z",
}

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(
        ["2026-11-23", "2026-11-23T23:59:60Z", "2099-01-01", "15m", "1.1", "ws", "a\x00", "\ud800", "alice"]
    )
    | st.sampled_from(["019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", GOOD["UUID"].upper()])
)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
_content_names = st.sampled_from(sorted(names_of(NEWEST.schema) | {"x-own"}))
_contents = st.dictionaries(_content_names, _json, max_size=4).map(lambda part: {**GOOD["content"], **part})


@st.composite
def _envelopes(draw: st.DrawFn) -> bytes:
    """A good envelope with some of its parts replaced or taken away, as JSON."""
    parts = dict(GOOD)
    for name in draw(st.lists(st.sampled_from([*GOOD, "other"]), max_size=2)):
        if draw(st.booleans()):
            parts.pop(name, None)
        else:
            parts[name] = draw(_json)
    if draw(st.booleans()):
        parts["content"] = draw(_contents)
    return json.dumps(parts, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """An envelope with some bytes cut, doubled or put in."""
    value = bytearray(draw(_envelopes()))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(value)))
        end = draw(st.integers(start, min(len(value), start + 20)))
        value[start:end] = draw(
            st.binary(max_size=4)
            | st.sampled_from([b"\\u0000", b"\\ud800", b'"', b"[" * 70, b"\\\\", b"}", b","])
        )
    return bytes(value)


_values = st.binary(max_size=64) | _envelopes() | _damaged()


def judge(value: bytes, *, is_exempt: bool = False) -> tuple[Message, Content] | InvalidMessage:
    try:
        message = decode(value, timestamp_ms=AT_MS, limits=LIMITS, is_exempt=is_exempt)
        return message, message.content
    except InvalidMessage as error:
        return error


@given(_values, st.booleans())
@example(b"", False)
@example(b"[" * 2000, False)
@example(b'{"a":' * 400, False)
@example(b'{"from":"\x00"', False)
@example(b'{"content":{"a":"\\u0000","b":' + b"9" * 1900 + b"}}", False)
def test_decode_and_find_faults_agree_on_any_bytes(value: bytes, is_exempt: bool) -> None:
    verdict = judge(value, is_exempt=is_exempt)
    faults = find_faults(value, timestamp_ms=AT_MS, limits=LIMITS, is_exempt=is_exempt)
    if isinstance(verdict, InvalidMessage):
        assert faults
        assert (verdict.field, verdict.rule, verdict.reason, verdict.remedy) == (
            faults[0].field,
            faults[0].rule,
            faults[0].reason,
            faults[0].remedy,
        )
    else:
        assert faults == []
    for fault in faults:
        assert fault.reason in REASONS
        assert fault.rule
        assert fault.remedy
        assert len(str(fault)) < 1000
        str(fault).encode()  # fit for a header


@given(_values, st.booleans())
def test_the_quick_way_and_the_thorough_way_read_the_same(value: bytes, is_exempt: bool) -> None:
    quick = _decode_quickly(value, AT_MS, LIMITS, is_exempt)
    if quick is None:
        return
    # A key twice, the first of them of the wrong type, is what the quick way leaves to the other.
    thorough = decode(
        b'{"from":0,' + value.lstrip()[1:], timestamp_ms=AT_MS, limits=LIMITS, is_exempt=is_exempt
    )
    for name in ("id", "sender", "recipients", "created_by", "created_at_ms", "day", "is_time_ordered"):
        assert getattr(quick, name) == getattr(thorough, name)
    assert quick.content_raw == thorough.content_raw


@given(_values)
def test_what_is_good_is_good_for_clients_and_for_a_database(value: bytes) -> None:
    verdict = judge(value)
    if isinstance(verdict, InvalidMessage):
        return
    message, _ = verdict
    text = value.decode()
    assert "\x00" not in json.dumps(json.loads(text), ensure_ascii=False)
    for reads in (["1"], ["1.0"], ["1.1"]):
        public = json.loads(public_envelope(message, cast(message.content_raw, reads)))
        assert "toUserIds" not in public
        assert "contacts" not in public["content"]
    assert message.id == message.id.lower()
    assert 1 <= len(message.recipients) == len(set(message.recipients)) <= 5


@given(_contents)
def test_casts_keep_good_content_good(content: dict[str, Any]) -> None:
    value = json.dumps({**GOOD, "content": content}).encode()
    verdict = judge(value)
    if isinstance(verdict, InvalidMessage):
        return
    for reads in ("1.0", "1.1"):
        there = cast(verdict[0].content_raw, [reads])
        again = value.replace(verdict[0].content_raw, there)
        assert not isinstance(judge(again), InvalidMessage)


@given(
    to=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5),
    title=st.none() | st.text(max_size=20),
    data=_json,
    sender=st.text(max_size=8),
)
def test_what_we_build_is_good_or_says_why(to: list[str], title: str | None, data: Any, sender: str) -> None:
    try:
        value = build_envelope(to=to, sender=sender, created_by="me", title=title, data=data)
    except (UnicodeEncodeError, ValueError):
        return  # a lone surrogate: no JSON can hold it
    message_time_ms = int.from_bytes(bytes.fromhex(json.loads(value)["UUID"].replace("-", ""))[:6])
    faults = find_faults(value, timestamp_ms=message_time_ms, limits=Limits())
    assert {fault.reason for fault in faults} <= {"nul"}


def test_none_is_empty() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(None, timestamp_ms=AT_MS, limits=LIMITS)
    assert caught.value.reason == "empty"


@pytest.mark.parametrize(
    "value",
    [
        json.dumps({f"createB{number}": 1 for number in range(10_000)}).encode(),
        json.dumps({**GOOD, "content": {"data": ["\0"] * 20_000}}).encode(),
        json.dumps({**GOOD, "content": {"channels": ["A"] * 20_000}}).encode(),
        json.dumps({**GOOD, "content": {"contacts": {f"u{number}": 1 for number in range(10_000)}}}).encode(),
    ],
    ids=["keys", "nuls", "channels", "contacts"],
)
def test_a_hostile_value_is_told_of_in_a_few_faults(value: bytes) -> None:
    assert 0 < len(find_faults(value, timestamp_ms=AT_MS, limits=Limits())) <= 20


def test_the_reference_page_names_these_reasons_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "envelope.md").read_text()
    table = page.partition("| reason | it means |")[2].partition("\n\n")[0]
    # The last one is for persist to find: it takes the messages before.
    assert set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE)) == REASONS | {"id_conflict"}
