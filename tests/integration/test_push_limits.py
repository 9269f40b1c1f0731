"""Hostile clients beside an honest one, which is served all along."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from tests.fixtures.push import PushServer, closed_with, make_message, next_frame, running_push_server
from tests.fixtures.sockets import BINARY, CLOSE, PING, PONG, RawClient, masked, request
from tests.fixtures.waiting import eventually

HELLO_FLOOD = masked(json.dumps({"op": "hello", "token": "x"}).encode())
GONE = (ConnectionError, asyncio.IncompleteReadError)


@asynccontextmanager
async def honest_client(server: PushServer) -> AsyncIterator[list[str]]:
    """A client that gets each message that is pushed meanwhile; how many is in the list."""
    ws = await server.hello("honest")
    got: list[str] = []

    async def serve() -> None:
        for n in range(100_000):
            assert server.publish(make_message("honest", title=str(n))) == 1
            got.append((await next_frame(ws))["message"]["UUID"])
            await ws.send_json({"op": "ack", "ids": [got[-1]]})
            assert await next_frame(ws) == {"op": "ok", "ack": [got[-1]]}
            # Below the limit of frames a second.
            await asyncio.sleep(0.02)

    serving = asyncio.create_task(serve())
    try:
        await eventually(lambda: got or serving.done())
        yield got
        before = len(got)
        await eventually(lambda: len(got) > before or serving.done())
        assert not serving.done(), serving.exception()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await ws.close()


async def problem(raw: RawClient) -> tuple[int, dict[str, object], str]:
    """Read an answer in problem details; return status, body and `Retry-After`."""
    head = await raw.head()
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    assert fields["Content-Type"].startswith("application/problem+json")
    async with asyncio.timeout(5):
        body = json.loads(await raw.reader.readexactly(int(fields["Content-Length"])))
    assert await raw.is_ended()
    raw.writer.close()
    return int(head.split()[1]), body, fields["Retry-After"]


async def test_an_address_with_all_its_sockets_is_told_when_to_come_again():
    async with running_push_server(
        ws_max_connections_per_address=3, trusted_proxies=("127.0.0.0/8",)
    ) as server:
        async with honest_client(server):
            hogs = []
            for _ in range(3):
                raw = await RawClient.open(server.port)
                raw.writer.write(request(X_Forwarded_For="192.0.2.1"))
                assert (await raw.head()).startswith("HTTP/1.1 101")
                hogs.append(raw)
            raw = await RawClient.open(server.port)
            # What the client adds itself does not make it another.
            raw.writer.write(request(X_Forwarded_For="203.0.113.5, 192.0.2.1"))
            status, body, retry_after = await problem(raw)
            assert (status, body["status"], body["code"]) == (429, 429, "too_many_connections")
            assert int(retry_after) > 0
            raw = await RawClient.open(server.port)
            raw.writer.write(request(X_Forwarded_For="192.0.2.2"))
            assert (await raw.head()).startswith("HTTP/1.1 101")
            hogs.append(raw)
            hogs[0].writer.close()
            await eventually(lambda: server.hub.sockets == 4)
            raw = await RawClient.open(server.port)
            raw.writer.write(request(X_Forwarded_For="192.0.2.1"))
            assert (await raw.head()).startswith("HTTP/1.1 101")
            raw.writer.close()
            for hog in hogs:
                hog.writer.close()
        assert server.metric("notifyd_ws_refused_total", reason="address") == 1


async def test_a_header_of_who_is_no_proxy_changes_no_address():
    async with running_push_server(ws_max_connections_per_address=1) as server:
        first, second = [await RawClient.open(server.port) for _ in range(2)]
        first.writer.write(request(X_Forwarded_For="192.0.2.1"))
        assert (await first.head()).startswith("HTTP/1.1 101")
        second.writer.write(request(X_Forwarded_For="192.0.2.2"))
        assert (await problem(second))[0] == 429
        first.writer.close()


async def test_streams_count_for_an_address_like_sockets():
    async with running_push_server(ws_max_connections_per_address=1) as server:
        headers = {"Authorization": f"Bearer {server.token()}"}
        async with server.session.get(f"{server.base}/v1/push/sse", headers=headers) as stream:
            assert stream.status == 200
            other = await server.session.get(f"{server.base}/v1/push/sse", headers=headers)
            assert other.status == 429
            other.close()
        await eventually(lambda: server.hub.sockets == 0)
        async with server.session.get(f"{server.base}/v1/push/sse", headers=headers) as stream:
            assert stream.status == 200


async def test_a_full_process_sends_the_next_elsewhere_and_keeps_whom_it_has():
    async with running_push_server(ws_max_connections=2) as server, honest_client(server):
        early = await server.connect()
        last = await server.hello("bob")
        raw = await RawClient.open(server.port)
        raw.writer.write(request())
        status, body, retry_after = await problem(raw)
        assert (status, body["code"]) == (503, "full")
        assert int(retry_after) > 0
        # Who had its socket before the last place was taken learns it with its hello.
        await early.send_json({"op": "hello", "token": server.token("carol")})
        code, frames = await closed_with(early)
        assert (code, frames[0]["code"]) == (1013, "try_later")
        await last.close()
        await eventually(lambda: server.hub.connections == 1)
        await (await server.hello("carol")).close()


async def test_heads_that_come_byte_by_byte_are_cut_in_a_set_time():
    async with running_push_server(head_s=0.4) as server, honest_client(server):
        slow = [await RawClient.open(server.port) for _ in range(30)]
        ended = [asyncio.create_task(raw.is_ended()) for raw in slow]
        for byte in request(X_Padding="x" * 100_000):
            for raw in slow:
                raw.writer.write(bytes((byte,)))
            if all(task.done() for task in ended):
                break
            await asyncio.sleep(0.02)
        assert all([await task for task in ended])
        for raw in slow:
            raw.writer.close()


async def test_sockets_that_say_nothing_at_all_are_cut_in_a_set_time():
    async with running_push_server(head_s=0.4) as server, honest_client(server):
        silent = [await RawClient.open(server.port) for _ in range(30)]
        assert all([await raw.is_ended() for raw in silent])
        for raw in silent:
            raw.writer.close()


async def test_upgrades_without_a_hello_are_cut_in_a_set_time():
    async with running_push_server(ws_hello_timeout_s=0.3) as server, honest_client(server):
        silent = [await RawClient.open(server.port) for _ in range(30)]
        for index, raw in enumerate(silent):
            # Some keep the socket busy, which is no hello.
            raw.writer.write(request() + masked(b"", PING) * (index % 3) + HELLO_FLOOD[: index % 5])
            await raw.head()
        for raw in silent:
            assert await raw.close_code() == 4408
            await raw.is_ended()
            raw.writer.close()
        await eventually(lambda: server.hub.sockets == 1)


FLOODS = {
    "pings": masked(b"x" * 125, PING) * 20_000,
    "empty_pings": masked(b"", PING) * 50_000,
    "pongs": masked(b"", PONG) * 50_000,
    "closes": masked(b"\x03\xe8", CLOSE) * 50_000,
    "empty_fragments": masked(b"", 0x01) + masked(b"", 0x00) * 50_000,
    "fragments_of_a_byte": masked(b"{", 0x01) + masked(b" ", 0x00) * 50_000,
    "unknown_ops": masked(b'{"op":"dance"}') * 20_000,
    "acks": masked(b'{"op":"ack","ids":["x"]}') * 20_000,
    "second_hellos": HELLO_FLOOD * 20_000,
    "empty_texts": masked(b"") * 50_000,
    "binary": masked(b"x" * 16_000, BINARY) * 200,
    "one_large_message": masked(b"x" * 3_000_000),
    "a_length_of_4_gib": b"\x81\xff\0\0\0\1\0\0\0\0" + bytes(3_000_000),
    "zeros": bytes(3_000_000),
    "ones": b"\xff" * 3_000_000,
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("is_welcome", [True, False], ids=["after_welcome", "before_hello"])
def test_floods_end_their_own_connection_alone(flood, is_welcome):
    async def scenario() -> None:
        async with running_push_server() as server, honest_client(server):
            flooders = []
            for _ in range(4):
                raw = await RawClient.open(server.port)
                if is_welcome:
                    await raw.upgrade(server.token("mallory"))
                else:
                    raw.writer.write(request())
                    await raw.head()
                raw.writer.write(FLOODS[flood])
                flooders.append(raw)
            for raw in flooders:
                with suppress(*GONE):
                    assert await raw.close_code() in (1000, 1002, 1008, 4400, 4401, 4413)
                await raw.is_ended()
                raw.writer.transport.abort()
            await eventually(lambda: server.hub.sockets == 1)

    uvloop.run(scenario())


async def test_flooders_that_never_read_are_cut_within_bounds():
    async with running_push_server(ws_max_frames_per_s=1e9) as server, honest_client(server):
        flooders = []
        for _ in range(10):
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token("mallory"))
            raw.writer.transport.pause_reading()
            flooders.append(raw)
        most = 0
        for _ in range(2_000):
            for raw in flooders:
                raw.writer.write(masked(b"x" * 125, PING) * 20)
            await asyncio.sleep(0)
            most = max([most, *(peer.unsent for peer in server.hub._members.sockets)])
            if server.hub.connections == 1:
                break
        await eventually(lambda: server.hub.connections == 1)
        # One read of the socket may come over the bound, no more.
        assert most < 2 * server.settings.ws_max_unsent_bytes + 65536
        for raw in flooders:
            raw.writer.transport.abort()
