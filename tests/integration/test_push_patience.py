"""Connections whose network is gone, as the kernel sees it: they make room for the device that comes back."""

from __future__ import annotations

import ctypes
import socket
import sys

import aiohttp
import pytest

from tests.fixtures.push import closed_with, next_frame, running_push_server
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is unacknowledged")

_SO_ATTACH_FILTER = 26


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def lose_network(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Drop all that comes for a socket, before TCP sees it: nothing is acknowledged any more."""
    raw: socket.socket = ws.get_extra_info("socket")
    drop_all = _Instruction(0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes
    program = _Program(1, ctypes.pointer(drop_all))
    fd = socket.socket(fileno=socket.dup(raw.fileno()))
    try:
        fd.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    finally:
        fd.close()


async def test_a_device_that_comes_back_takes_the_place_of_its_dead_connection():
    async with running_push_server(ws_max_connections_per_user=2) as server:
        alive = await server.hello()
        dead = await server.hello()
        lose_network(dead)
        again = await server.connect()
        await again.send_json({"op": "hello", "token": server.token()})
        assert (await next_frame(again, timeout_s=10))["op"] == "welcome"
        assert server.hub.connections == 2
        # The one that was there all the time still is.
        assert (await next_frame(alive))["op"] == "pos"
        await alive.send_json({"op": "ack", "ids": ["nonsense"]})
        assert (await next_frame(alive))["op"] == "ok"


async def test_where_all_devices_answer_the_one_too_many_is_refused_for_good():
    async with running_push_server(ws_max_connections_per_user=2) as server:
        there = [await server.hello() for _ in range(2)]
        third = await server.connect()
        await third.send_json({"op": "hello", "token": server.token()})
        code, frames = await closed_with(third)
        assert (code, frames[0]["code"]) == (4429, "too_many_connections")
        assert server.hub.connections == 2
        for ws in there:
            assert not ws.closed


async def test_a_stream_is_refused_once_and_finds_the_place_of_a_dead_connection_then():
    async with running_push_server(ws_max_connections_per_user=1) as server:
        dead = await server.hello()
        lose_network(dead)
        url = f"http://127.0.0.1:{server.port}/v1/push/sse"
        headers = {"Authorization": f"Bearer {server.token()}"}

        async def status() -> int:
            async with server.session.get(url, headers=headers) as answer:
                return answer.status

        assert await status() == 429
        await eventually(lambda: _is(status, 200), what="room", every_s=0.5)
        assert not dead.closed


async def _is(status, wanted: int) -> bool:
    return await status() == wanted
