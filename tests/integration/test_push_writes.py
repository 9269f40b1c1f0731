"""Writes to a socket beside its transport: what both event loops must keep to for that to be safe."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator

import pytest
import uvloop

from notifyd.push.connection import Connection
from tests.fixtures.push import PushServer, make_message, payloads, running_push_server
from tests.fixtures.sockets import RawClient
from tests.fixtures.waiting import eventually

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def _reset(raw: RawClient) -> None:
    held = raw.writer.get_extra_info("socket")
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.writer.transport.abort()


ENDS: dict[str, Callable[[PushServer, RawClient], object]] = {
    "reset by the peer": lambda _, raw: _reset(raw),
    "closed by the peer": lambda _, raw: raw.writer.close(),
    "cut by us": lambda server, _: [peer.abort() for peer in list(server.hub._members.sockets)],
}


@pytest.mark.parametrize("how", ENDS)
def test_the_number_of_a_socket_is_its_connections_until_that_was_told_of_the_end(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Were it closed before, the number could be another's, and so would be what is written to it."""
    seen = []
    original = Connection.connection_lost

    def look(self: Connection, exc: Exception | None) -> None:
        seen.append(stat.S_ISSOCK(os.fstat(self._fd).st_mode))
        original(self, exc)
        seen.append(self._fd)

    monkeypatch.setattr(Connection, "connection_lost", look)

    async def scenario() -> None:
        async with running_push_server() as server:
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token())
            ENDS[how](server, raw)
            await eventually(lambda: len(seen) == 2)
            assert seen == [True, -1]
            if how == "cut by us":
                raw.writer.close()

    runner.run(scenario())


def test_a_client_that_stalls_gets_every_frame_whole_and_in_order_when_it_goes_on(
    runner: asyncio.Runner,
) -> None:
    async def scenario() -> None:
        async with running_push_server(ws_max_unsent_bytes=64 * 1024 * 1024) as server:
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token())
            raw.writer.transport.pause_reading()
            peer = next(iter(server.hub._members.sockets))
            sent = 0
            while sent < 100 or not peer.unsent:
                for _ in range(sent % 7 + 1):  # alone, and several in a tick
                    server.publish(make_message(title=str(sent), body="x" * (sent * 997 % 9000)))
                    sent += 1
                await asyncio.sleep(0)
            raw.writer.transport.resume_reading()
            got, held = [], b""
            while len(got) < sent:
                async with asyncio.timeout(10):
                    held += await raw.reader.read(1 << 20)
                whole = _whole(held)
                for payload in payloads(held[:whole]):
                    frame = json.loads(payload)
                    got.extend(frame if isinstance(frame, list) else [frame])
                held = held[whole:]
            assert [frame["message"]["content"]["title"] for frame in got] == [str(n) for n in range(sent)]
            assert peer.unsent == 0
            raw.writer.close()

    runner.run(scenario())


def test_who_is_cut_for_not_reading_learns_of_it_without_reading(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with running_push_server() as server:
            raw = await RawClient.open(server.port)
            await raw.upgrade(server.token())
            raw.writer.transport.pause_reading()
            while not server.metric("notifyd_ws_evictions_total"):
                server.publish(make_message(body="x" * 60_000))
                await asyncio.sleep(0)
            held = raw.writer.get_extra_info("socket")
            await eventually(lambda: held.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)
            raw.writer.transport.abort()

    runner.run(scenario())


def _whole(data: bytes) -> int:
    """Return how many bytes the whole frames at the start of `data` take."""
    at = 0
    while len(data) - at >= 2:
        size, head = data[at + 1], 2
        if size >= 126:
            width = 2 if size == 126 else 8
            head += width
            if len(data) - at < head:
                break
            size = int.from_bytes(data[at + 2 : at + head], "big")
        if len(data) - at < head + size:
            break
        at += head + size
    return at
