"""A server that runs out of descriptors: who is there is served, who is honest gets in, and it recovers."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.fixtures.push_process import PushProcess
from tests.fixtures.sockets import RawClient, request
from tests.fixtures.waiting import eventually

NO_ANSWER = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


async def join(
    server: PushProcess, session: aiohttp.ClientSession, user: str
) -> aiohttp.ClientWebSocketResponse:
    ws = await session.ws_connect(f"ws://127.0.0.1:{server.port}/v1/push")
    await ws.send_json({"op": "hello", "token": server.token(user)})
    assert json.loads((await ws.receive(timeout=5)).data)["op"] == "welcome"
    return ws


async def get_message(
    server: PushProcess, ws: aiohttp.ClientWebSocketResponse, user: str, title: str
) -> None:
    assert await asyncio.to_thread(server.publish, user, title) == 1
    frame = json.loads((await ws.receive(timeout=10)).data)
    assert frame["message"]["content"]["title"] == title


def end(raw: RawClient) -> None:
    raw.writer.transport.abort()
    raw.writer.close()


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["silent_sockets", "upgrades_without_hello"])
async def test_sockets_that_say_nothing_take_no_place_of_others(tmp_path: Path, is_upgraded):
    settings = {"ws_hello_timeout_s": 60}
    with PushProcess(tmp_path / "log", descriptors=200, **settings) as server:
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            first = await join(server, session, "alice")
            for n in range(400):
                raw = await RawClient.open(server.port)
                stack.callback(end, raw)
                if is_upgraded:
                    raw.writer.write(request())
                if n % 100 == 99:
                    await get_message(server, first, "alice", f"message {n}")
                    # The next honest one needs no luck and no patience.
                    other = await join(server, session, "bob")
                    await get_message(server, other, "bob", f"message {n}")
                    await other.close()
        assert server.is_running()
        assert server.faults() == []


async def test_it_recovers_when_there_was_not_one_descriptor_left(tmp_path: Path):
    with PushProcess(tmp_path / "log") as server:
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            first = await join(server, session, "alice")
            server.limit_descriptors(server.stats()["descriptors"] - 2)
            for _ in range(20):
                with suppress(OSError):
                    raw = await RawClient.open(server.port)
                    stack.callback(end, raw)
                    raw.writer.write(request())
            with suppress(*NO_ANSWER):
                await join(server, session, "bob")
                pytest.fail("a socket came from nowhere")
            await get_message(server, first, "alice", "still served")
            server.limit_descriptors(1000)

            async def comes_in() -> bool:
                with suppress(*NO_ANSWER):
                    other = await join(server, session, "bob")
                    await get_message(server, other, "bob", "again")
                    return True
                return False

            await eventually(comes_in)
            await get_message(server, first, "alice", "to the end")
        assert server.is_running()
