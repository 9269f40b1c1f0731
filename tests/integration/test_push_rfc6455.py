"""RFC 6455 on the handed-over socket of a real server: each case names the section that it holds.

A case sends bytes after the welcome, and says what must come back. The protocol on top serves as
echo: the id of an `ack` that is no UUID comes back as refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import uvloop

from notifyd.push.protocol import ERROR_OF, CloseCode
from tests.fixtures.push import PushServer, running_push_server
from tests.fixtures.sockets import (
    ACCEPT,
    BINARY,
    CLOSE,
    KEY,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    masked,
    request,
)
from tests.fixtures.waiting import eventually

CONT, FIN = 0x00, 0x80
LIMIT = 16 * 1024


def ack(name: str, size: int = 0) -> bytes:
    """Build a text that comes back as refused `name`, of `size` bytes where given."""
    text = json.dumps({"op": "ack", "ids": [name], "pad": ""}, ensure_ascii=False).encode()
    return text[:-2] + b"x" * (size - len(text)) + text[-2:]


def raw_ack(name: bytes) -> bytes:
    return b'{"op":"ack","ids":["' + name + b'"]}'


@dataclass(frozen=True)
class Case:
    """What is sent, and what must come back: pongs, ids, the close code (None: it stays open)."""

    id: str
    section: str
    sends: Sequence[bytes]
    pongs: tuple[bytes, ...] = ()
    ids: tuple[str, ...] = ()
    code: int | None = None
    #: The client closed; the server answers with this body.
    answer: bytes | None = None


def opens(
    name: str, section: str, *sends: bytes, ids: Sequence[str] = ("a",), pongs: Sequence[bytes] = ()
) -> Case:
    return Case(name, section, sends, tuple(pongs), tuple(ids))


def fails(name: str, section: str, *sends: bytes, code: int = 1002, **more: tuple) -> Case:
    return Case(name, section, sends, code=code, **more)


def closes(name: str, section: str, *sends: bytes, answer: bytes, **more: tuple) -> Case:
    return Case(name, section, sends, answer=answer, **more)


def _masking() -> list[Case]:
    text = ack("a")
    return [
        opens("mask_of_zeros", "5.3", masked(text, mask=bytes(4))),
        opens("mask_of_ones", "5.3", masked(text, mask=b"\xff" * 4)),
        opens(
            "each_frame_its_mask",
            "5.3",
            masked(text, mask=b"abcd"),
            masked(ack("b"), mask=b"\0\0\0\1"),
            ids=("a", "b"),
        ),
        opens(
            "a_mask_per_fragment",
            "5.3",
            masked(text[:9], 0x01, mask=b"abcd"),
            masked(text[9:], FIN, mask=b"wxyz"),
        ),
        fails("unmasked_text", "5.1", b"\x81\x02{}"),
        fails("unmasked_empty_text", "5.1", b"\x81\x00"),
        fails("unmasked_binary", "5.1", b"\x82\x01x"),
        fails("unmasked_ping", "5.1", b"\x89\x00"),
        fails("unmasked_pong", "5.1", b"\x8a\x00"),
        fails("unmasked_close", "5.1", b"\x88\x02\x03\xe8"),
        fails("unmasked_continuation", "5.1", masked(text[:9], 0x01) + b"\x80\x01x"),
        fails("unmasked_after_masked", "5.1", masked(text) + b"\x81\x02{}", ids=("a",)),
    ]


def _reserved() -> list[Case]:
    text = ack("a")
    bits = [
        fails(f"{name}_with_{bits}", "5.2", masked(payload, first | rsv))
        for name, first, payload in (("text", TEXT, text), ("ping", PING, b""), ("close", CLOSE, b"\x03\xe8"))
        for bits, rsv in (("rsv1", 0x40), ("rsv2", 0x20), ("rsv3", 0x10), ("all_rsv", 0x70))
    ]
    opcodes = [
        fails(f"reserved_opcode_{opcode:x}", "5.2", masked(b"x", FIN | opcode))
        for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    ]
    return [
        *bits,
        *opcodes,
        fails("rsv1_on_a_continuation", "5.2", masked(text[:9], 0x01) + masked(text[9:], 0xC0)),
        fails("reserved_opcode_inside_fragments", "5.2", masked(text[:9], 0x01) + masked(b"", 0x83)),
    ]


def _lengths() -> list[Case]:
    return [
        *(
            opens(f"payload_of_{size}", "5.2", masked(ack("a", size)))
            for size in (125, 126, 127, 128, 255, 256, LIMIT - 1, LIMIT)
        ),
        fails("payload_over_the_limit", "10.4", masked(ack("a", LIMIT + 1)), code=4413),
        fails("payload_of_65536", "10.4", masked(ack("a", 65536)), code=4413),
        fails(
            "announced_over_the_limit_is_not_waited_for", "10.4", b"\x81\xfe\x40\x01" + bytes(4), code=4413
        ),
        fails("announced_4_gib", "10.4", b"\x81\xff\0\0\0\1\0\0\0\0" + bytes(4), code=4413),
        fails(
            "fragments_over_the_limit",
            "10.4",
            masked(b"x" * 9000, 0x01) + masked(b"x" * 9000, CONT)[:8],
            code=4413,
        ),
        fails("125_in_16_bits", "5.2", masked(ack("a", 125), size_of_size=2)),
        fails("0_in_16_bits", "5.2", masked(b"", size_of_size=2)),
        fails("126_in_64_bits", "5.2", masked(ack("a", 126), size_of_size=8)),
        fails("0_in_64_bits", "5.2", masked(b"", size_of_size=8)),
        fails("65535_in_64_bits", "5.2", b"\x81\xff" + (65535).to_bytes(8, "big") + bytes(4)),
        fails("first_bit_of_64_set", "5.2", b"\x81\xff\x80" + bytes(7) + bytes(4)),
    ]


def _packets() -> list[Case]:
    long = masked(ack("a", 300))
    return [
        opens("byte_by_byte", "5.2", *(bytes((byte,)) for byte in masked(ack("a")))),
        *(opens(f"cut_at_{at}", "5.2", long[:at], long[at:]) for at in (1, 2, 3, 4, 5, 7, 8, 9, 299)),
        opens(
            "ten_frames_in_a_packet",
            "5.2",
            b"".join(masked(ack(str(n))) for n in range(10)),
            ids=[str(n) for n in range(10)],
        ),
        opens(
            "a_frame_and_a_half",
            "5.2",
            masked(ack("a")) + long[:50],
            long[50:] + masked(ack("b")),
            ids=("a", "a", "b"),
        ),
    ]


def _fragments() -> list[Case]:
    text, other = ack("a"), masked(ack("b"))
    one, two, three = text[:7], text[7:14], text[14:]
    begun, cont, last = masked(one, 0x01), masked(two, CONT), masked(three, FIN)
    return [
        opens("two_fragments", "5.4", masked(one, 0x01), masked(text[7:], FIN)),
        opens("three_fragments", "5.4", begun, cont, last),
        opens("three_fragments_in_a_packet", "5.4", begun + cont + last),
        opens(
            "a_fragment_per_byte",
            "5.4",
            masked(text[:1], 0x01)
            + b"".join(masked(text[n : n + 1], CONT) for n in range(1, len(text) - 1))
            + masked(text[-1:], FIN),
        ),
        opens("empty_first_fragment", "5.4", masked(b"", 0x01), masked(text, FIN)),
        opens("empty_middle_fragment", "5.4", masked(one, 0x01), masked(b"", CONT), masked(text[7:], FIN)),
        opens("empty_last_fragment", "5.4", masked(text, 0x01), masked(b"", FIN)),
        opens("two_messages_in_fragments", "5.4", begun + cont + last, begun + cont + last, ids=("a", "a")),
        opens("whole_after_fragments", "5.4", begun + cont + last + other, ids=("a", "b")),
        opens(
            "fragments_to_the_limit",
            "5.4",
            masked(ack("a", LIMIT)[:9000], 0x01),
            masked(ack("a", LIMIT)[9000:], FIN),
        ),
        opens("ping_between", "5.4", begun, masked(b"here?", PING), cont, last, pongs=(b"here?",)),
        opens(
            "pings_between_all",
            "5.4",
            begun + masked(b"1", PING) + cont + masked(b"2", PING) + last,
            pongs=(b"1", b"2"),
        ),
        opens("pong_between", "5.4", begun + masked(b"unasked", PONG) + cont + last),
        closes("close_between", "5.4", begun, close_frame(1000), answer=b"\x03\xe8"),
        fails("nothing_to_continue", "5.4", masked(b"x", FIN)),
        fails("nothing_to_continue_not_last", "5.4", masked(b"x", CONT)),
        fails("nothing_to_continue_after_a_whole", "5.4", masked(text) + masked(b"x", FIN), ids=("a",)),
        fails(
            "nothing_to_continue_after_the_last", "5.4", begun + cont + last + masked(b"x", FIN), ids=("a",)
        ),
        fails("text_inside_fragments", "5.4", begun + other),
        fails("fragmented_text_inside_fragments", "5.4", begun + begun),
        fails("binary_inside_fragments", "5.4", begun + masked(b"x", BINARY)),
        fails("binary_in_fragments", "5.6", masked(b"\0", 0x02), masked(b"\1", FIN), code=4400),
        fails(
            "nothing_in_fragments", "5.6", masked(b"", 0x01) + masked(b"", CONT) + masked(b"", FIN), code=4400
        ),
    ]


def _control() -> list[Case]:
    return [
        *(
            fails(f"fragmented_{name}", "5.5", masked(payload, first & 0x7F))
            for name, first, payload in (
                ("ping", PING, b""),
                ("pong", PONG, b""),
                ("close", CLOSE, b"\x03\xe8"),
            )
        ),
        *(
            fails(f"{name}_of_126", "5.5", masked(b"\x03\xe8" * 63, first))
            for name, first in (("ping", PING), ("pong", PONG), ("close", CLOSE))
        ),
        fails("ping_with_64_bits_of_length", "5.5", masked(b"x", PING, size_of_size=8)),
        fails("ping_with_16_bits_of_length", "5.5", masked(b"x", PING, size_of_size=2)),
        opens("ping", "5.5.2", masked(b"", PING), ids=(), pongs=(b"",)),
        opens("ping_with_text", "5.5.3", masked(b"hello", PING), ids=(), pongs=(b"hello",)),
        opens(
            "ping_with_bytes", "5.5.3", masked(b"\0\xff\xfe\xfd", PING), ids=(), pongs=(b"\0\xff\xfe\xfd",)
        ),
        opens("ping_of_125", "5.5.3", masked(b"\xfe" * 125, PING), ids=(), pongs=(b"\xfe" * 125,)),
        opens(
            "ping_byte_by_byte",
            "5.5.3",
            *(bytes((byte,)) for byte in masked(b"xyz", PING)),
            ids=(),
            pongs=(b"xyz",),
        ),
        opens(
            "ten_pings",
            "5.5.3",
            b"".join(masked(b"%d" % n, PING) for n in range(10)),
            ids=(),
            pongs=[b"%d" % n for n in range(10)],
        ),
        opens("ping_then_text", "5.5.2", masked(b"p", PING) + masked(ack("a")), pongs=(b"p",)),
        opens("unasked_pong", "5.5.3", masked(b"", PONG) + masked(ack("a"))),
        opens("unasked_pong_with_bytes", "5.5.3", masked(b"\xff" * 125, PONG) + masked(ack("a"))),
        opens(
            "unasked_pongs_and_a_ping",
            "5.5.3",
            masked(b"q", PONG) * 5 + masked(b"p", PING),
            ids=(),
            pongs=(b"p",),
        ),
    ]


def _closing() -> list[Case]:
    taken = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    refused = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    normal = close_frame(1000)
    return [
        *(closes(f"code_{n}", "7.4", close_frame(n), answer=n.to_bytes(2, "big")) for n in taken),
        *(fails(f"code_{n}_must_not_be_sent", "7.4", close_frame(n)) for n in refused),
        closes("no_code", "5.5.1", masked(b"", CLOSE), answer=b""),
        closes("a_reason", "5.5.1", close_frame(1000, "Tschüß".encode()), answer=b"\x03\xe8"),
        closes("a_reason_of_123", "5.5.1", close_frame(1000, b"x" * 123), answer=b"\x03\xe8"),
        fails("half_a_code", "5.5.1", masked(b"\x03", CLOSE)),
        fails("a_reason_that_is_no_utf8", "5.5.1", close_frame(1000, b"\xff"), code=1007),
        fails("a_reason_cut_in_a_character", "5.5.1", close_frame(1000, "ü".encode()[:1]), code=1007),
        closes("text_before", "5.5.1", masked(ack("a")), normal, answer=b"\x03\xe8", ids=("a",)),
        closes("text_after", "5.5.1", normal + masked(ack("a")), answer=b"\x03\xe8"),
        closes("ping_after", "5.5.1", normal + masked(b"x", PING), answer=b"\x03\xe8"),
        closes("another_close_after", "5.5.1", normal + close_frame(4000), answer=b"\x03\xe8"),
        closes("garbage_after", "5.5.1", normal + b"\xff" * 40, answer=b"\x03\xe8"),
        closes("half_a_frame_after", "5.5.1", normal + masked(ack("a"))[:5], answer=b"\x03\xe8"),
        closes(
            "byte_by_byte_close",
            "5.5.1",
            *(bytes((b,)) for b in close_frame(1000, b"bye")),
            answer=b"\x03\xe8",
        ),
        fails("nothing_is_read_after_a_violation", "7.1.7", b"\x83\x80" + bytes(4) + masked(b"x", PING)),
    ]


def _utf8() -> list[Case]:
    good = {
        "two_bytes": "é",
        "three_bytes": "€",
        "four_bytes": "😀",
        "u_fffd": "\ufffd",
        "noncharacter": "\uffff",
        "highest": "\U0010ffff",
        "before_surrogates": "\ud7ff",
        "after_surrogates": "\ue000",
        "bom": "\ufeff",
    }
    bad = {
        "ff_fe": b"\xff\xfe",
        "lone_continuation": b"\x80",
        "overlong_2": b"\xc0\xaf",
        "overlong_3": b"\xe0\x80\xaf",
        "overlong_4": b"\xf0\x80\x80\xaf",
        "surrogate": b"\xed\xa0\x80",
        "surrogate_pair": b"\xed\xa0\x80\xed\xb0\x80",
        "above_10ffff": b"\xf4\x90\x80\x80",
        "f5": b"\xf5\x80\x80\x80",
        "five_bytes": b"\xf8\x88\x80\x80\x80",
        "cut_2": b"\xc3",
        "cut_3": b"\xe2\x82",
        "cut_4": b"\xf0\x9f\x98",
    }
    whole = raw_ack("é€😀".encode())
    smile = whole.index("😀".encode())
    return [
        *(opens(f"utf8_{name}", "8.1", masked(ack(char)), ids=(char,)) for name, char in good.items()),
        *(fails(f"no_utf8_{name}", "8.1", masked(raw_ack(data)), code=1007) for name, data in bad.items()),
        *(
            opens(
                f"character_over_fragments_at_{n}",
                "8.1",
                masked(whole[: smile + n], 0x01),
                masked(whole[smile + n :], FIN),
                ids=("é€😀",),
            )
            for n in (1, 2, 3)
        ),
        opens(
            "character_over_four_fragments_with_pings",
            "8.1",
            masked(whole[: smile + 1], 0x01),
            *(masked(whole[smile + n : smile + n + 1], CONT) + masked(b"p", PING) for n in (1, 2)),
            masked(whole[smile + 3 :], FIN),
            ids=("é€😀",),
            pongs=(b"p", b"p"),
        ),
        fails(
            "cut_character_at_the_end_of_the_last_fragment",
            "8.1",
            masked(b"{", 0x01) + masked(b"\xe2\x82", FIN),
            code=1007,
        ),
        fails("cut_character_at_the_end", "8.1", masked(b"\xe2\x82"), code=1007),
        fails("no_utf8_only_when_joined", "8.1", masked(b"\xe2", 0x01), masked(b"\x28", FIN), code=1007),
        # The message is not whole and never will be: the fault shows in what is there.
        fails("fast_in_the_first_fragment", "8.1", masked(b"{\xff", 0x01), code=1007),
        fails(
            "fast_in_a_later_fragment",
            "8.1",
            masked(b"{\xe2", 0x01),
            masked(b"\x82\x82\xf5", CONT),
            code=1007,
        ),
        fails(
            "fast_after_a_character_over_fragments",
            "8.1",
            masked(b"{\xf4", 0x01),
            masked(b"\x90", CONT),
            code=1007,
        ),
        opens(
            "bytes_of_a_ping_are_no_text",
            "8.1",
            masked(whole[:5], 0x01),
            masked(b"\xff", PING),
            masked(whole[5:], FIN),
            ids=("é€😀",),
            pongs=(b"\xff",),
        ),
    ]


def _kinds() -> list[Case]:
    return [
        fails("empty_text", "5.6", masked(b""), code=4400),
        fails("binary", "5.6", masked(b"\0\1", BINARY), code=4400),
        fails("empty_binary", "5.6", masked(b"", BINARY), code=4400),
        fails("text_that_is_no_json", "5.6", masked(b"nonsense"), code=4400),
        opens("text", "5.6", masked(ack("a"))),
    ]


CASES = [
    *_masking(),
    *_reserved(),
    *_lengths(),
    *_packets(),
    *_fragments(),
    *_control(),
    *_closing(),
    *_utf8(),
    *_kinds(),
]


async def run_case(server: PushServer, case: Case) -> None:
    raw = await RawClient.open(server.port)
    await raw.upgrade(server.token())
    pongs: list[bytes] = []
    ids: list[str] = []
    errors: list[str] = []
    for data in case.sends:
        raw.writer.write(data)
        await asyncio.sleep(0)
    is_open = case.code is None and case.answer is None
    body: bytes | None = None
    while body is None and not (is_open and (len(pongs), len(ids)) == (len(case.pongs), len(case.ids))):
        opcode, payload = await raw.frame()
        if opcode == 8:
            body = payload
        elif opcode == 10:
            pongs.append(payload)
        else:
            parsed = json.loads(payload)
            for frame in parsed if isinstance(parsed, list) else [parsed]:
                ids.extend(frame.get("refused", ()))
                errors.extend([frame["code"]] if frame["op"] == "error" else [])
    if is_open:
        assert body is None, f"closed with {body!r}"
        raw.writer.write(masked(b"the end", PING) + close_frame(1000))
        assert await raw.frame() == (10, b"the end")
        assert await raw.frame() == (8, b"\x03\xe8")
    elif case.answer is not None:
        assert body == case.answer
    else:
        assert int.from_bytes(body[:2], "big") == case.code
        assert body[2:].decode()
        assert errors == [ERROR_OF[CloseCode(case.code)]]
        if not raw.reader.at_eof():
            raw.writer.write(masked(body[:2], CLOSE))
    assert (tuple(pongs), tuple(ids)) == (case.pongs, case.ids)
    # The server ends the connection, not the client (7.1.1).
    await raw.is_ended()
    raw.writer.close()
    await eventually(lambda: server.hub.sockets == 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section}-{case.id}")
def test_frames(case):
    async def scenario() -> None:
        async with running_push_server() as server:
            await run_case(server, case)

    uvloop.run(scenario())


@dataclass(frozen=True)
class Handshake:
    """A request, the status it must get, and what the head of the answer must and must not hold."""

    id: str
    section: str
    sends: bytes
    status: int
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def taken(name: str, section: str, sends: bytes, *has: str, lacks: tuple[str, ...] = ()) -> Handshake:
    has = (f"Sec-WebSocket-Accept: {ACCEPT}", "Upgrade: websocket", "Connection: Upgrade", *has)
    return Handshake(name, section, sends, 101, has, ("Sec-WebSocket-Extensions", *lacks))


def refused(name: str, section: str, sends: bytes, status: int, *has: str) -> Handshake:
    return Handshake(name, section, sends, status, has, ("Sec-WebSocket-Accept",))


_VERSION_IS_SAID = "Sec-WebSocket-Version: 13"
_PROTOCOL = "Sec-WebSocket-Protocol: notifyd.v1"

HANDSHAKES = [
    taken("plain", "4.2.1", request()),
    taken("names_in_lower_case", "4.2.1", request().replace(b"Sec-W", b"sec-w").replace(b"Host", b"host")),
    taken("upgrade_in_capitals", "4.2.1", request(Upgrade="WebSocket")),
    taken("connection_in_capitals", "4.2.1", request(Connection="UPGRADE")),
    taken("connection_among_others", "4.2.1", request(Connection="keep-alive, Upgrade")),
    taken("space_around_the_key", "4.2.1", request(Sec_WebSocket_Key=f"  {KEY}  ")),
    taken("absolute_target", "4.2.1", request(line="GET http://x/v1/push HTTP/1.1")),
    taken("a_query", "4.2.1", request(line="GET /v1/push?a=b HTTP/1.1")),
    taken("cookies_and_more", "4.2.1", request(("Cookie", "a=b"), ("X-Unknown", "1"), ("Origin-Trial", "x"))),
    taken("length_of_0", "4.2.1", request(Content_Length="0")),
    taken("no_protocol_offered", "4.2.2", request(), lacks=("Sec-WebSocket-Protocol",)),
    taken("our_protocol", "4.2.2", request(Sec_WebSocket_Protocol="notifyd.v1"), _PROTOCOL),
    taken(
        "our_protocol_among_others", "4.2.2", request(Sec_WebSocket_Protocol="chat, notifyd.v1"), _PROTOCOL
    ),
    taken(
        "our_protocol_in_a_second_header",
        "11.3.4",
        request(("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "notifyd.v1")),
        _PROTOCOL,
    ),
    taken("others_only", "4.2.2", request(Sec_WebSocket_Protocol="chat"), lacks=("Sec-WebSocket-Protocol",)),
    taken(
        "protocols_have_case",
        "4.2.2",
        request(Sec_WebSocket_Protocol="Notifyd.V1"),
        lacks=("Sec-WebSocket-Protocol",),
    ),
    taken("deflate_offered", "9.1", request(Sec_WebSocket_Extensions="permessage-deflate")),
    taken("an_unknown_extension", "9.1", request(Sec_WebSocket_Extensions="x-none; a=1, x-other")),
    refused("no_upgrade", "4.2.1", request(Upgrade=""), 426),
    refused("another_upgrade", "4.2.1", request(Upgrade="h2c"), 426),
    # aiohttp switches to what is the only one; no client offers more.
    refused("upgrade_among_others", "4.2.1", request(Upgrade="h2c, websocket"), 426),
    refused("upgrade_only_begins_like_it", "4.2.1", request(Upgrade="websockets"), 426),
    refused("no_connection", "4.2.1", request(Connection=""), 426),
    refused("connection_close", "4.2.1", request(Connection="close"), 426),
    refused("connection_keep_alive", "4.2.1", request(Connection="keep-alive"), 426),
    refused("no_version", "4.2.1", request(Sec_WebSocket_Version=""), 426, _VERSION_IS_SAID),
    *(
        refused(f"version_{n}", "4.4", request(Sec_WebSocket_Version=n), 426, _VERSION_IS_SAID)
        for n in ("0", "8", "14", "13, 8", "013", "x")
    ),
    refused("two_versions", "11.3.5", request(("Sec-WebSocket-Version", "8")), 400),
    refused("no_key", "4.2.1", request(Sec_WebSocket_Key=""), 400),
    refused("two_keys", "11.3.1", request(("Sec-WebSocket-Key", KEY)), 400),
    refused("a_key_of_15_bytes", "4.2.1", request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA"), 400),
    refused("a_key_of_18_bytes", "4.2.1", request(Sec_WebSocket_Key="A" * 24), 400),
    refused("a_short_key", "4.2.1", request(Sec_WebSocket_Key="c2hvcnQ="), 400),
    refused("a_key_without_padding", "4.2.1", request(Sec_WebSocket_Key=KEY.rstrip("=")), 400),
    refused("a_key_that_is_no_base64", "4.2.1", request(Sec_WebSocket_Key="!" * 22 + "=="), 400),
    refused("a_key_of_other_letters", "4.2.1", request(Sec_WebSocket_Key="é" * 11 + "=="), 400),
    refused("no_host", "4.2.1", request(Host=""), 400),
    refused("two_hosts", "4.2.1", request(("Host", "y")), 400),
    refused("a_body", "4.2.1", request(Content_Length="5") + b"hello", 400),
    refused("a_chunked_body", "4.2.1", request(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
    refused("http_1_0", "4.2.1", request(line="GET /v1/push HTTP/1.0"), 426),
    refused("post", "4.2.1", request(line="POST /v1/push HTTP/1.1"), 405),
    refused("head", "4.2.1", request(line="HEAD /v1/push HTTP/1.1"), 405),
    refused("connect", "4.2.1", request(line="CONNECT x:80 HTTP/1.1"), 404),
    refused("another_path", "4.2.1", request(line="GET /v1/pusher HTTP/1.1"), 404),
    refused("no_http", "4.2.1", b"hello\r\n\r\n", 400),
    refused("a_header_without_colon", "4.2.1", request()[:-2] + b"nonsense\r\n\r\n", 400),
    refused("a_header_of_9000", "4.2.1", request(("X-Long", "x" * 9000)), 400),
    refused("a_nul_in_a_header", "4.2.1", request(("X-Nul", "a\0b")), 400),
]


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: f"{case.section}-{case.id}")
def test_handshakes(case):
    async def scenario() -> None:
        async with running_push_server() as server:
            raw = await RawClient.open(server.port)
            raw.writer.write(case.sends)
            head = await raw.head()
            assert head.split()[1] == str(case.status), head
            lines = [line.lower() for line in head.splitlines()]
            for line in case.has:
                assert line.lower() in lines, head
            for name in case.lacks:
                assert not any(line.startswith(f"{name.lower()}:") for line in lines), head
            # Where it was taken, the next bytes are frames; elsewhere nobody is on the socket.
            if case.status == 101:
                raw.writer.write(masked(b"up", PING))
                assert await raw.frame() == (10, b"up")
            else:
                assert server.hub.sockets == 0
            raw.writer.close()
            await eventually(lambda: server.hub.sockets == 0)

    uvloop.run(scenario())


async def test_the_frames_of_one_packet_with_the_handshake_are_read_4_1():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        hello = json.dumps({"op": "hello", "token": server.token()}).encode()
        raw.writer.write(request() + masked(b"early", PING) + masked(hello) + masked(ack("a")))
        assert (await raw.head()).startswith("HTTP/1.1 101")
        assert await raw.frame() == (10, b"early")
        assert b"welcome" in (await raw.frame())[1]
        raw.writer.close()


async def test_a_foreign_origin_is_let_in_and_told_why_it_must_go_4_2_2():
    async with running_push_server(ws_origins=("https://app.example",)) as server:
        for origin, is_taken in (("https://app.example", True), ("https://evil.example", False)):
            raw = await RawClient.open(server.port)
            raw.writer.write(request(Origin=origin) + masked(b"", PING))
            assert (await raw.head()).startswith("HTTP/1.1 101")
            if is_taken:
                assert await raw.frame() == (10, b"")
            else:
                assert await raw.close_code() == 4403
            raw.writer.close()


async def test_one_that_never_answers_a_close_is_dropped_7_1_1():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        await raw.upgrade(server.token())
        raw.writer.write(masked(b"nonsense"))
        assert await raw.close_code() == 4400
        await raw.is_ended()
        await eventually(lambda: server.hub.sockets == 0)
        raw.writer.close()


async def test_one_that_ends_without_a_close_is_forgotten_7_1_4():
    async with running_push_server() as server:
        for leave in ("write_eof", "close", "abort"):
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token())
            raw.writer.write(masked(ack("a"))[:5])
            getattr(raw.writer.transport, leave)()
            await eventually(lambda: server.hub.sockets == 0)
            raw.writer.close()
