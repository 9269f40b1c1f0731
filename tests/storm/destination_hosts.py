"""The receivers of a trial of destinations as a process: most are well, some hang, fail or refuse until told.

Host number n listens at 127.0.1.(n + 1). A URL that ends in `?answer=403` is answered so until then.
Journal: `AT_MS STATUS ID NUMBER` for each call that is answered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from aiohttp import web

from tests.storm.records import Journal, now_ms, run_party

_LOOK_S = 0.1


class HostsConfig(msgspec.Struct, frozen=True):
    """`well` hosts, then `of_each` that hang, answer 500, refuse; all are well once `flag` exists."""

    port: int
    well: int
    of_each: int
    flag: str
    #: How long a host that is well takes to answer.
    answer_s: float = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return self.well + 3 * self.of_each


def address_of(number: int) -> str:
    """Return the address of a host."""
    return f"127.0.1.{number + 1}"


async def main(config: HostsConfig, journal: Journal, stop: asyncio.Event) -> None:
    flag = Path(config.flag)
    is_mended = False

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        number = int(request.path.rpartition("/")[2])
        status = 200 if is_mended else int(request.query.get("answer", 200))
        if number >= config.well and not is_mended:
            if number < config.well + config.of_each:
                await asyncio.sleep(3600)
            status = 500
        elif config.answer_s:
            await asyncio.sleep(config.answer_s)
        message_id = request.headers.get("webhook-id", "-").partition("_")[0]
        journal.write(now_ms(), status, message_id, number)
        return web.Response(status=status)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    refusing = config.well + 2 * config.of_each
    for number in range(refusing):
        await web.TCPSite(runner, address_of(number), config.port, backlog=1024).start()
    while not stop.is_set():
        if not is_mended and flag.exists():
            is_mended = True
            for number in range(refusing, config.count):
                await web.TCPSite(runner, address_of(number), config.port, backlog=1024).start()
        await asyncio.sleep(_LOOK_S)
    await runner.cleanup()


if __name__ == "__main__":
    run_party(HostsConfig, main)
