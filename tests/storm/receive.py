"""The webhook receivers of a storm as a process. A share of the first calls goes wrong.

Journal: `AT_MS STATUS ID USER` for each call; status 0 where the connection was cut instead.
"""

from __future__ import annotations

import asyncio
import zlib

import msgspec
from aiohttp import web

from tests.storm.messages import HOOK_HOSTS
from tests.storm.records import Journal, now_ms, run_party

_SLOW_S = 2.0


class ReceiverConfig(msgspec.Struct, frozen=True):
    """`flaky` is the share of first calls that fail or hang for a moment."""

    port: int
    flaky: float


async def main(config: ReceiverConfig, journal: Journal, stop: asyncio.Event) -> None:
    failed: set[tuple[str, str]] = set()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        user = request.path.rpartition("/")[2]
        message_id = request.headers.get("webhook-id", "-").partition("_")[0]
        status, headers = 200, {}
        lot = zlib.crc32(message_id.encode()) % 10_000
        if lot < config.flaky * 10_000 and (message_id, user) not in failed:
            failed.add((message_id, user))
            match lot % 4:
                case 0:
                    status = 503
                case 1:
                    status, headers = 429, {"Retry-After": "1"}
                case 2:
                    status = 0
                case 3:
                    await asyncio.sleep(_SLOW_S)
        journal.write(now_ms(), status, message_id, user)
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=status, headers=headers)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.5)
    await runner.setup()
    for host in HOOK_HOSTS:
        await web.TCPSite(runner, host, config.port, backlog=1024).start()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    run_party(ReceiverConfig, main)
