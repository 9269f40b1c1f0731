"""Frames of the push protocol and the cursor."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.message.envelope import new_id
from notifyd.push.cursor import Cursor, decode_cursor, decode_place, encode_cursor, encode_place
from notifyd.push.protocol import (
    MAX_IDS,
    BadFrame,
    Hello,
    Mark,
    Unknown,
    day_of_v7,
    decode_client,
    encode_message,
    encode_ok,
    encode_welcome,
    join_frames,
)


def test_hello_with_everything_and_with_nothing():
    [hello] = decode_client(
        '{"op":"hello","token":"t","cursor":"c","at":["3:1"],"content":["1","2.1"],"ack":false}'
    )
    assert hello == Hello(token="t", cursor="c", at=("3:1",), content=("1", "2.1"), ack=False)
    assert decode_client('{"op":"hello"}') == [Hello()]


def test_an_array_is_read_in_order():
    frames = decode_client(' [{"op":"ack","ids":["a"]},{"op":"dance","ids":7},{"op":"read","ids":["b"]}]')
    assert frames == [Mark("ack", ["a"]), Unknown("dance"), Mark("read", ["b"])]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "7",
        "null",
        '"hello"',
        "{}",
        '{"op":1}',
        '{"op":"ack"}',
        '{"op":"ack","ids":[]}',
        '{"op":"ack","ids":[1]}',
        '{"op":"ack","ids":"x"}',
        '{"op":"ack","ids":["' + "x" * 65 + '"]}',
        json.dumps({"op": "ack", "ids": ["x"] * (MAX_IDS + 1)}),
        '{"op":"hello","content":[]}',
        '{"op":"hello","content":[1]}',
        '{"op":"hello","content":["1","2","3","4","5","6","7","8","9"]}',
        '{"op":"hello","ack":"yes"}',
        '{"op":"hello"} {"op":"hello"}',
        "[" * 16_000,
        '{"op":"x","deep":' + "[" * 16_000,
        "[" + '{"op":"x"},' * 100 + '{"op":"x"}]',
    ],
)
def test_what_is_no_frame_is_refused(text):
    with pytest.raises(BadFrame):
        decode_client(text)


@given(st.text(max_size=200))
def test_any_text_is_frames_or_a_bad_frame(text):
    try:
        decode_client(text)
    except BadFrame as error:
        assert len(str(error)) <= 200


def test_frames_of_the_server_are_plain_json():
    welcome = json.loads(encode_welcome("s", "c", 25.0, 3, None))
    assert welcome == {
        "op": "welcome", "session": "s", "cursor": "c", "heartbeat": 25, "replayed": 3, "missing": None
    }  # fmt: skip
    one, two = encode_message(b'{"a":1}', "3:7"), encode_message(b'{"a":2}', None)
    assert json.loads(join_frames([one, two])) == [
        {"op": "msg", "at": "3:7", "message": {"a": 1}},
        {"op": "msg", "message": {"a": 2}},
    ]
    assert json.loads(encode_ok("seen", ["x"])) == {"op": "ok", "seen": ["x"]}
    assert json.loads(encode_ok("ack", [], ["y"])) == {"op": "ok", "ack": [], "refused": ["y"]}


@given(st.text(max_size=40), st.dictionaries(st.integers(0, 200), st.integers(1, 2**63 - 1), max_size=20))
def test_a_cursor_comes_back_as_it_went(incarnation, offsets):
    text = encode_cursor(Cursor(incarnation, offsets))
    assert text.isascii()
    assert decode_cursor(text) == Cursor(incarnation, offsets)


@given(st.text(max_size=60) | st.text(alphabet="1ABCab+/-_=", max_size=60).map(lambda t: "1" + t))
def test_any_other_cursor_is_foreign_and_no_error(text):
    found = decode_cursor(text)
    assert found is None or isinstance(found, Cursor)


def test_negative_and_too_many_offsets_are_foreign():
    import base64

    import msgspec

    for body in (["i", [-1]], ["i", [1] * 5000], ["i", "x"], ["i"], ["i" * 200, [1]]):
        text = "1" + base64.urlsafe_b64encode(msgspec.msgpack.encode(body)).decode().rstrip("=")
        assert decode_cursor(text) is None


@given(st.integers(0, 4095), st.integers(0, 2**62))
def test_a_place_comes_back_as_it_went(partition, offset):
    assert decode_place(encode_place(partition, offset)) == (partition, offset)


@pytest.mark.parametrize("text", ["", ":", "1:", ":1", "a:1", "1:-1", "1:²", "12345:1", "1:" + "9" * 30])
def test_no_place_is_none(text):
    assert decode_place(text) is None


def test_the_day_of_an_id():
    assert day_of_v7(uuid.UUID(new_id())) is not None
    assert day_of_v7(uuid.uuid4()) is None
    assert day_of_v7(uuid.UUID("ffffffff-ffff-7fff-8fff-ffffffffffff")) is None
