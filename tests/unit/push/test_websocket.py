"""RFC 6455 framing: each case names the section that it holds."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.push import websocket as ws
from notifyd.push.websocket import FrameReader, ProtocolViolation, encode_frame, read_close

_MASK = b"abcd"


def client_frame(payload: bytes, opcode: int = ws.TEXT, *, first: int | None = None) -> bytes:
    """Encode as a client does: masked."""
    plain = encode_frame(payload, opcode)
    head = plain[: len(plain) - len(payload)]
    masked = bytes(byte ^ _MASK[i % 4] for i, byte in enumerate(payload))
    lead = 0x80 | opcode if first is None else first
    return bytes((lead, head[1] | 0x80)) + head[2:] + _MASK + masked


def read(data: bytes, max_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
    return list(FrameReader(max_bytes).feed(data))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_every_form_of_length_is_read_5_2(size):
    payload = os.urandom(size)
    assert read(client_frame(payload)) == [(ws.TEXT, payload)]


def test_aiohttp_still_unmasks_in_c():
    data = bytearray(b"\x01\x02\x03\x04\x05")
    ws.websocket_mask(b"\xff\x00\xff\x00", data)
    assert bytes(data) == b"\xfe\x02\xfc\x04\xfa"
    assert type(ws.websocket_mask).__name__ != "function"


@pytest.mark.parametrize(
    ("data", "section"),
    [
        (encode_frame(b"plain"), "5.1"),
        (client_frame(b"x", first=0xC1), "5.2"),
        (client_frame(b"x", first=0x91), "5.2"),
        (client_frame(b"x", opcode=0x3), "5.2"),
        (client_frame(b"x", opcode=0xB), "5.2"),
        (client_frame(b"x", opcode=ws.PING, first=0x09), "5.5"),
        (b"\x89\xfe\x00\x7e" + b"abcd" + b"x" * 126, "5.5"),
        (b"\x81\xfe\x00\x05abcdhello", "5.2"),
        (b"\x81\xff" + (5).to_bytes(8, "big") + b"abcdhello", "5.2"),
        (b"\x81\xff\x80" + bytes(7) + b"abcd", "5.2"),
        (client_frame(b"x", opcode=ws.CONTINUATION), "5.4"),
        (client_frame(b"a", first=0x01) + client_frame(b"b"), "5.4"),
    ],
)
def test_what_the_rfc_forbids_is_refused(data, section):
    with pytest.raises(ProtocolViolation) as error:
        read(data)
    assert f"({section})" in error.value.detail
    assert error.value.code == 1002


def test_control_frames_may_come_between_fragments_5_4():
    data = (
        client_frame(b"one ", first=0x01)
        + client_frame(b"!", opcode=ws.PING)
        + client_frame(b"", first=0x00)
        + client_frame(b"two", first=0x80)
    )
    assert read(data) == [(ws.PING, b"!"), (ws.TEXT, b"one two")]


def test_a_message_over_the_limit_is_refused_before_its_bytes_come():
    whole = client_frame(b"x" * 101)[:8]
    fragments = client_frame(b"x" * 60, first=0x01) + client_frame(b"x" * 41, first=0x80)[:6]
    for data in (whole, fragments):
        with pytest.raises(ProtocolViolation) as error:
            read(data, 100)
        assert error.value.code == 1009
    assert read(client_frame(b"x" * 100), 100) == [(ws.TEXT, b"x" * 100)]


def test_no_more_frames_are_read_than_allowed():
    reader = FrameReader(100)
    reader.max_frames = 3
    got = []
    with pytest.raises(ProtocolViolation) as error:
        for message in reader.feed(client_frame(b"", ws.PING) * 100):
            got.append(message)
    assert (len(got), error.value.code) == (3, 1008)


@pytest.mark.parametrize(
    ("fragments", "fails_at"),
    [
        ((b"\xff", b"x"), 0),
        ((b"\xe2\x82", b"\xac", b"\x80"), 2),
        ((b"\xe2", b"\x82", b""), 2),
        ((b"ok", b"\xc0", b"x"), 1),
    ],
)
def test_a_fragment_that_cannot_be_utf8_is_refused_at_once_8_1(fragments, fails_at):
    reader = FrameReader(100)
    for index, fragment in enumerate(fragments):
        first = (0x80 if index == len(fragments) - 1 else 0) | (0 if index else ws.TEXT)
        data = client_frame(fragment, first=first)
        if index == fails_at:
            with pytest.raises(ProtocolViolation) as error:
                list(reader.feed(data))
            assert error.value.code == 1007
            return
        assert list(reader.feed(data)) == []


def test_what_came_before_a_violation_is_still_given():
    reader = FrameReader(100)
    got = []
    with pytest.raises(ProtocolViolation):
        for message in reader.feed(client_frame(b"good") + encode_frame(b"bad")):
            got.append(message)
    assert got == [(ws.TEXT, b"good")]


_frames = st.lists(
    st.tuples(st.sampled_from([ws.TEXT, ws.BINARY, ws.PING]), st.binary(max_size=125)), max_size=6
)


@given(_frames, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_the_cut_of_the_stream_changes_nothing(frames, cuts):
    data = b"".join(client_frame(payload, opcode) for opcode, payload in frames)
    reader, got, at, index = FrameReader(1 << 16), [], 0, 0
    while at < len(data):
        step = cuts[index % len(cuts)]
        got.extend(reader.feed(data[at : at + step]))
        at, index = at + step, index + 1
    assert got == frames
    assert reader.frames == len(frames)


@given(st.binary(max_size=300))
def test_garbage_is_a_violation_or_unfinished_and_nothing_else(data):
    with contextlib.suppress(ProtocolViolation):
        read(data, 64)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
def test_close_codes_that_must_not_be_sent_are_refused_7_4(code):
    with pytest.raises(ProtocolViolation):
        read_close(code.to_bytes(2, "big"))


def test_close_bodies_5_5_1():
    assert read_close(b"") is None
    assert read_close((1000).to_bytes(2, "big") + "auf ✓".encode()) == 1000
    assert read_close((4999).to_bytes(2, "big")) == 4999
    for body in (b"\x03", (1000).to_bytes(2, "big") + b"\xff\xfe"):
        with pytest.raises(ProtocolViolation):
            read_close(body)


def test_a_long_close_reason_is_cut_at_a_character():
    frame = ws.encode_close(1001, "ü" * 100)
    assert frame[1] == 2 + 122
    assert frame[4:].decode() == "ü" * 61


def test_accept_key_4_2_2():
    assert ws.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert ws.accept_key("") is None
    assert ws.accept_key("c2hvcnQ=") is None
    assert ws.accept_key("not base64 !") is None
