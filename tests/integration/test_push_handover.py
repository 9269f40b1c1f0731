"""The handover of the socket from aiohttp, and RFC 6455 on it. Private names of aiohttp are held here."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import weakref

import aiohttp
import pytest
import uvloop
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from notifyd.push.addresses import Proxies
from notifyd.push.admission import origin_of
from notifyd.push.connection import Connection
from tests.fixtures.push import closed_with, make_message, next_frame, running_push_server
from tests.fixtures.sockets import RawClient, masked, request
from tests.fixtures.waiting import eventually


def test_the_private_names_of_aiohttp_are_where_we_expect_them():
    for name in ("_upgraded", "_message_tail", "_buffer_paused", "transport"):
        assert any(name in getattr(kind, "__slots__", ()) for kind in RequestHandler.__mro__), name
    assert callable(RequestHandler.connection_lost)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": ""}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "close"}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": ""}, 426),
        ({"Sec_WebSocket_Key": ""}, 400),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400),
    ],
)
async def test_a_wrong_handshake_gets_an_http_answer_4_2_1(headers, status):
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        raw.writer.write(request(**headers))
        assert f" {status} " in (await raw.head()).splitlines()[0]
        raw.writer.close()
        assert server.hub.sockets == 0


async def test_the_handshake_answers_the_key_and_the_subprotocol_4_2_2():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        raw.writer.write(request(Sec_WebSocket_Protocol="chat, notifyd.v1"))
        head = await raw.head()
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert "Sec-WebSocket-Protocol: notifyd.v1" in head
        assert "Extensions" not in head
        other = await RawClient.open(server.port)
        other.writer.write(request(Sec_WebSocket_Protocol="chat"))
        assert "Sec-WebSocket-Protocol" not in await other.head()
        raw.writer.close()
        other.writer.close()


async def test_a_hello_in_the_packet_of_the_handshake_is_read():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        await raw.upgrade(server.token())
        assert server.hub.connections == 1
        raw.writer.close()
        await eventually(lambda: server.hub.sockets == 0)


async def test_a_hello_byte_by_byte_is_read():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        raw.writer.write(request())
        await raw.head()
        for byte in masked(json.dumps({"op": "hello", "token": server.token()}).encode()):
            raw.writer.write(bytes((byte,)))
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.frame())[0] == 1
        raw.writer.close()


async def test_fragments_with_a_ping_between_5_4():
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        await raw.upgrade(server.token())
        text = b'{"op":"ack","ids":["\xc3\xa9"]}'
        raw.writer.write(masked(text[:21], 0x01) + masked(b"here?", 0x89) + masked(text[21:], 0x80))
        assert await raw.frame() == (10, b"here?")
        opcode, payload = await raw.frame()
        assert opcode == 1
        assert json.loads(payload) == {"op": "ok", "ack": [], "refused": ["é"]}
        raw.writer.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02{}", 1002),
        (masked(b"{}", 0xC1), 1002),
        (masked(b"{}", 0x83), 1002),
        (masked(b"x", 0x80), 1002),
        (masked(b"x", 0x09), 1002),
        (masked(b"\x03", 0x88), 1002),
        (masked(b"\x03\xec", 0x88), 1002),
        (masked(b"\xff\xfe"), 1007),
        (masked(b"nonsense"), 4400),
        (masked(b"\x00\x01", 0x82), 4400),
        (masked(b'{"op":"hello"}'), 4400),
        (masked(b'{"op":"ack","ids":[]}'), 4400),
        (b"\x81\xfe\x40\x01" + bytes(4), 4413),
        (masked(b"x" * 9000, 0x01) + masked(b"x" * 9000, 0x80)[:8], 4413),
        (masked(b"\x03\xe8", 0x88), 1000),
        (masked(b"\x0f\xa1bye", 0x88), 4001),
    ],
)
async def test_what_breaks_a_rule_is_closed_with_its_code_7_1_7(data, code):
    async with running_push_server() as server:
        raw = await RawClient.open(server.port)
        await raw.upgrade(server.token())
        raw.writer.write(data)
        assert await raw.close_code() == code
        raw.writer.write(masked(code.to_bytes(2, "big"), 0x88))
        async with asyncio.timeout(8):
            assert await raw.reader.read() == b""
        raw.writer.close()
        await eventually(lambda: server.hub.sockets == 0)


async def test_an_unknown_op_is_ignored():
    async with running_push_server() as server:
        ws = await server.hello()
        await ws.send_json({"op": "subscribe", "ids": 7})
        await ws.send_json([{"op": "dance"}, {"op": "ack", "ids": ["x"]}])
        assert await next_frame(ws) == {"op": "ok", "ack": [], "refused": ["x"]}


async def test_a_frame_of_exactly_16_kib_is_taken():
    async with running_push_server() as server:
        ws = await server.hello()
        text = json.dumps({"op": "later", "pad": ""})
        await ws.send_str(text.replace('""', '"' + "x" * (16_384 - len(text)) + '"'))
        await ws.send_json({"op": "ack", "ids": ["x"]})
        assert (await next_frame(ws))["op"] == "ok"


async def test_acks_before_the_hello_are_refused():
    async with running_push_server() as server:
        ws = await server.connect()
        await ws.send_json({"op": "ack", "ids": ["x"]})
        assert (await closed_with(ws))[0] == 4400


async def test_a_slow_reader_is_cut_and_the_others_get_everything():
    async with running_push_server() as server:
        slow = await RawClient.open(server.port)
        await slow.upgrade(server.token())
        slow.writer.transport.pause_reading()
        quick = await server.hello()
        got = []

        async def read() -> None:
            while len(got) < 300:
                data = json.loads((await quick.receive(timeout=10)).data)
                got.extend(data if isinstance(data, list) else [data])

        reading = asyncio.create_task(read())
        for n in range(300):
            server.publish(make_message(title=str(n), body="x" * 60_000))
            await asyncio.sleep(0.001)
        await asyncio.wait_for(reading, 20)
        assert [frame["message"]["content"]["title"] for frame in got] == [str(n) for n in range(300)]
        await eventually(lambda: server.metric("notifyd_ws_evictions_total") == 1)
        assert server.hub.connections == 1
        slow.writer.transport.abort()


async def test_aiohttp_keeps_nothing_of_a_connection_that_was_handed_over():
    async with running_push_server() as server:
        ws = await server.hello()
        gc.collect()
        handlers = [weakref.ref(o) for o in gc.get_objects() if type(o) is RequestHandler]
        await eventually(lambda: gc.collect() >= 0 and not any(ref() for ref in handlers))
        # aiohttp remembers the applications of other tests, and they their last connections.
        connections = [o for o in gc.get_objects() if type(o) is Connection and o._hub is server.hub]
        assert len(connections) == 1
        assert not hasattr(connections[0], "__dict__")
        assert sys.getsizeof(connections[0]) < 400
        await ws.close()


def test_all_of_it_works_on_uvloop():
    async def scenario() -> None:
        async with running_push_server() as server:
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token())
            ws = await server.hello()
            server.publish(make_message(title="uv"))
            assert (await next_frame(ws))["message"]["content"]["title"] == "uv"
            assert b"uv" in (await raw.frame())[1]
            raw.writer.write(b"\x81\x02{}")
            assert await raw.close_code() == 1002
            raw.writer.close()
            server.events.gate.clear()
            for _ in range(8):
                await ws.send_json({"op": "ack", "ids": [make_message().id for _ in range(400)]})
            await eventually(lambda: server.hub.unconfirmed_acks > 2000)
            server.events.gate.set()
            await eventually(lambda: server.hub.unconfirmed_acks == 0 and len(server.events.written) == 3200)
            await server.hub.drain(0.2)
            code, frames = await closed_with(ws)
            assert code == 1001
            assert frames[-1]["op"] in ("drain", "ok")

    uvloop.run(scenario())


async def test_one_that_left_before_its_turn_is_a_lost_connection_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    seen = []

    def origin_of_one_that_leaves(request: web.Request, proxies: Proxies) -> str:
        seen.append(request)
        request.transport.abort()
        return origin_of(request, proxies)

    monkeypatch.setattr("notifyd.push.endpoint.origin_of", origin_of_one_that_leaves)
    async with running_push_server() as server:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await server.connect()
        await eventually(lambda: seen and server.hub.sockets == 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_plain_http_on_the_same_server_still_works():
    async with running_push_server() as server:
        await server.hello()
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{server.port}/v1/push") as response:
                assert response.status == 426
            async with session.get(f"http://127.0.0.1:{server.port}/nothing") as response:
                assert response.status == 404
