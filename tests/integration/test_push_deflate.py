"""permessage-deflate (RFC 7692) where it is switched on: what is packed, what is refused, what it costs."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.fixtures.push import PushServer, make_message, running_push_server
from tests.fixtures.sockets import CLOSE, PING, TEXT, RawClient, masked

PACKED = 0x40
FIN = 0x80
CONT = 0x00
OFFER = "permessage-deflate; client_max_window_bits"
TAIL = b"\x00\x00\xff\xff"


def pack(payload: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def ack(name: str, pad: int = 0) -> bytes:
    return json.dumps({"op": "ack", "ids": [name], "pad": "x" * pad}).encode()


@asynccontextmanager
async def connected(
    server: PushServer, offer: str = OFFER, bits: int = 15
) -> AsyncIterator[tuple[RawClient, str]]:
    """Open a session; also what the server made of the offer."""
    client = await RawClient.open(server.port)
    client.window_bits = bits
    head = await client.upgrade(server.token(), Sec_WebSocket_Extensions=offer)
    lines = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
    try:
        yield client, lines.get("Sec-WebSocket-Extensions", "")
    finally:
        client.writer.close()


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        (OFFER, "", 15),
        ("permessage-deflate", "", 15),
        ("permessage-deflate; server_max_window_bits=9", "; server_max_window_bits=9", 9),
        # What cannot be kept is passed over for the next offer.
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", None, 15),
    ],
)
async def test_a_message_comes_packed_to_who_asked(offer, answer, bits):
    async with (
        running_push_server(ws_deflate=True) as server,
        connected(server, offer, bits) as (client, extension),
    ):
        base = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        assert extension.startswith(base)
        if answer is not None:
            assert extension == base + answer
        message = make_message(("alice",), title="the same words again " * 40)
        server.publish(message)
        _, payload = await client.frame()
        assert client.was_packed
        assert json.loads(payload)["message"]["UUID"] == message.id


@pytest.mark.parametrize(
    "offer",
    ["", "x-none", "permessage-deflate; server_max_window_bits=7", "permessage-deflate; unheard_of"],
)
async def test_who_offers_nothing_that_we_can_keep_gets_plain_messages(offer):
    async with (
        running_push_server(ws_deflate=True) as server,
        connected(server, offer) as (client, extension),
    ):
        assert extension == ""
        server.publish(make_message(("alice",), title="the same words again " * 40))
        await client.frame()
        assert not client.was_packed


async def test_nothing_is_packed_unless_the_setting_says_so():
    async with running_push_server() as server, connected(server) as (client, extension):
        assert extension == ""
        client.writer.write(masked(pack(ack("x")), TEXT | PACKED))
        assert await client.close_code() == 1002


async def test_all_who_get_the_same_get_the_same_bytes_and_it_is_packed_once(monkeypatch):
    count = 0
    real = zlib.compressobj

    def counted(*args):
        nonlocal count
        count += 1
        return real(*args)

    async with running_push_server(ws_deflate=True) as server, AsyncExitStack() as stack:
        clients = [(await stack.enter_async_context(connected(server)))[0] for _ in range(5)]
        monkeypatch.setattr("notifyd.push.deflate.zlib.compressobj", counted)
        server.publish(make_message(("alice",), title="the same words again " * 40))
        assert len({(await client.frame())[1] for client in clients}) == 1
        assert all(client.was_packed for client in clients)
        assert count == 1


async def test_a_client_may_pack_its_frames_in_fragments_with_a_ping_between():
    async with running_push_server(ws_deflate=True) as server, connected(server) as (client, _):
        packed = pack(ack("no uuid"))
        client.writer.write(
            masked(packed[:7], (TEXT | PACKED) & ~FIN)
            + masked(b"here?", PING)
            + masked(packed[7:9], CONT)
            + masked(packed[9:], CONT | FIN)
            + masked(ack("plain"))
            + masked(pack(ack("packed")), TEXT | PACKED)
        )
        assert await client.frame() == (10, b"here?")
        refused: list[str] = []
        while len(refused) < 3:
            frames = json.loads((await client.frame())[1])
            for frame in frames if isinstance(frames, list) else [frames]:
                refused += frame["refused"]
        assert refused == ["no uuid", "plain", "packed"]


def final(payload: bytes) -> bytes:
    """Pack with a last block, as some do (7.2.3.4)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(payload) + packer.flush(zlib.Z_FINISH)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([masked(pack(b"\0" * 10_000_000), TEXT | PACKED)], 4413, id="a bomb"),
        pytest.param([masked(pack(ack("x", 17_000)), TEXT | PACKED)], 4413, id="a little too much"),
        pytest.param([masked(b"here?", PING | PACKED)], 1002, id="a packed ping"),
        pytest.param([masked(b"\x03\xe8", CLOSE | PACKED)], 1002, id="a packed close"),
        pytest.param(
            [masked(b"{", TEXT & ~FIN), masked(b"}", CONT | FIN | PACKED)], 1002, id="a packed continuation"
        ),
        pytest.param(
            [masked(b"{", TEXT & ~FIN), masked(pack(ack("x")), TEXT | PACKED)], 1002, id="within another"
        ),
        pytest.param([masked(b"\xff\xff\xff", TEXT | PACKED)], 1002, id="no deflate"),
        pytest.param([masked(pack(b"\xff\xfe"), TEXT | PACKED)], 1007, id="no UTF-8"),
        pytest.param([masked(final(ack("x")) + b"more", TEXT | PACKED)], 1002, id="more than the last block"),
        pytest.param([masked(ack("x"), TEXT | 0x20)], 1002, id="another reserved bit"),
    ],
)
async def test_what_breaks_a_rule_ends_the_connection(frames, code):
    async with running_push_server(ws_deflate=True) as server, connected(server) as (client, _):
        client.writer.write(b"".join(frames))
        assert await client.close_code() == code


@pytest.mark.parametrize("after", [b"", b"\0"])
async def test_a_last_block_is_taken(after):
    async with running_push_server(ws_deflate=True) as server, connected(server) as (client, _):
        client.writer.write(masked(final(ack("x")) + after, TEXT | PACKED))
        assert json.loads((await client.frame())[1])["refused"] == ["x"]


async def test_a_slow_reader_gets_packed_what_waited():
    async with running_push_server(ws_deflate=True) as server, connected(server) as (client, _):
        [connection] = server.hub._members.of("alice")
        connection.pause_writing()
        for _ in range(3):
            server.publish(make_message(("alice",), title="the same words again " * 40))
        await asyncio.sleep(0)
        connection._is_paused = False
        connection._write_line()
        _, payload = await client.frame()
        assert client.was_packed
        assert len(json.loads(payload)) == 3
