"""The form of a signal: what is read, what is ignored, what is refused."""

from __future__ import annotations

import json

import pytest

from notifyd.delivery.signal import MAX_IDS, EndSignal, StateSignal, decode_signal, encode_signal, read_op
from notifyd.errors import InvalidMessage


def test_the_form_is_the_one_that_is_documented():
    state = StateSignal(ids=["a", "b"], set="read", by="s1")
    assert json.loads(encode_signal(state)) == {
        "op": "state",
        "ids": ["a", "b"],
        "set": "read",
        "by": "s1",
        "v": 1,
    }
    assert json.loads(encode_signal(EndSignal(before=1_790_000_000_000))) == {
        "op": "end",
        "before": 1_790_000_000_000,
        "v": 1,
    }
    for signal in (state, EndSignal(before=5)):
        assert decode_signal(encode_signal(signal)) == signal


def test_fields_ops_and_versions_of_later_are_ignored():
    more = b'{"op":"state","v":1,"ids":["a"],"set":"seen","unread":3,"why":{}}'
    assert decode_signal(more) == StateSignal(ids=["a"], set="seen")
    assert read_op(b'{"op":"typing","v":1}') is None
    assert read_op(b'{"op":"end","v":2,"everything":true}') is None
    assert read_op(b'{"op":"end"}') == "end"


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b"{}", b'{"op":7}', b'{"op":"end","v":"x"}'])
def test_what_has_no_op_is_no_signal(value):
    with pytest.raises(InvalidMessage) as caught:
        read_op(value)
    assert caught.value.reason == "bad_signal"


@pytest.mark.parametrize(
    "more",
    [
        {"ids": []},
        {"ids": ["a"] * (MAX_IDS + 1)},
        {"ids": ["a" * 65]},
        {"ids": [1]},
        {"ids": ["a"], "set": "eaten"},
        {"ids": ["a"], "by": "s" * 129},
        {},
    ],
)
def test_a_state_within_no_bounds_is_refused(more):
    value = json.dumps({"op": "state", "v": 1, "set": "read", **more}).encode()
    assert read_op(value) == "state"
    with pytest.raises(InvalidMessage):
        decode_signal(value)


@pytest.mark.parametrize("before", [-1, "now", 1.5, None])
def test_an_end_without_a_moment_is_refused(before):
    with pytest.raises(InvalidMessage):
        decode_signal(json.dumps({"op": "end", "before": before}).encode())
