"""A `ws` process that stands still for longer than a client may take to say hello."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import aiohttp

from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service
from tests.fixtures.waiting import eventually

FROZEN_S = 10.0


async def _first_frame(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    got = await ws.receive(timeout=60)
    assert got.type is aiohttp.WSMsgType.TEXT, got
    found: dict[str, Any] = got.json()
    return found


async def _scenario(ws_pod: NotifydProcess, token: str) -> None:
    url = f"{ws_pod.http_url.replace('http', 'ws', 1)}/v1/push"
    hello = {"op": "hello", "token": token}
    async with aiohttp.ClientSession() as session:
        before = [await session.ws_connect(url) for _ in range(4)]
        silent = await session.ws_connect(url)
        loop = asyncio.get_running_loop()
        ws_pod.signal(signal.SIGSTOP)
        stopped_at = loop.time()
        # Those say hello to a process that does not hear them, and others connect meanwhile.
        for ws in before:
            await ws.send_json(hello)

        async def arrive() -> dict[str, Any]:
            async with session.ws_connect(url) as ws:
                await ws.send_json(hello)
                return await _first_frame(ws)

        during = [asyncio.create_task(arrive()) for _ in range(4)]
        await eventually(lambda: loop.time() - stopped_at >= FROZEN_S, what="the freeze to last")
        assert not any(task.done() for task in during)
        ws_pod.signal(signal.SIGCONT)

        frames = [await _first_frame(ws) for ws in before] + list(await asyncio.gather(*during))
        assert [frame["op"] for frame in frames] == ["welcome"] * 8
        assert (await _first_frame(silent))["code"] == "no_hello"
        assert (await silent.receive(timeout=10)).data == 4408
        for ws in before:
            await ws.close()


def test_clients_that_could_not_be_heard_are_welcomed_and_who_says_nothing_is_not(service: Service) -> None:
    ws = service.role("ws").wait_ready()
    token = service.run("token", "alice").stdout.strip()
    asyncio.run(_scenario(ws, token))
    assert ws.log_entries("push_stalled")
    assert ws.metric("notifyd_ws_closes_total", code="4408") == 1
