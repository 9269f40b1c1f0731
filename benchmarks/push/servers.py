"""What the Python servers of the push benchmarks share, and the `websockets` library as one of them.

A server prints `port N`, then obeys its standard input, a line each: `prepare ROUNDS BURST FANOUT COUNT`
makes the messages (`prepared`), `go` delivers them (`done` when all is written), `collect` collects
garbage (`collected`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.push.work import REST_S, SECRET, Work

#: As the role: the longest that pushing keeps the loop, in seconds.
TURN_S = 0.02


def tell(line: str) -> None:
    """Answer a command."""
    print(line, flush=True)


async def commands() -> asyncio.StreamReader:
    """Read standard input without blocking the loop."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


Deliver = Callable[[bytes], None]


async def obey(
    deliver: Deliver,
    more: dict[str, Callable[[list[str]], Awaitable[None]]],
    settle: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Do what standard input says until it ends; `settle` waits until a round is written."""
    reader, values = await commands(), []
    while line := (await reader.readline()).decode().split():
        if line[0] == "prepare":
            values = Work.parse(line[1:]).values()
            gc.collect()
            gc.freeze()
            tell("prepared")
        elif line[0] == "go":
            await deliver_all(deliver, values, settle)
            tell("done")
        elif line[0] == "collect":
            gc.collect()
            tell("collected")
        elif line[0] in more:
            await more[line[0]](line[1:])


async def deliver_all(
    deliver: Deliver, values: list[list[list[bytes]]], settle: Callable[[], Awaitable[None]] | None
) -> None:
    """Deliver as role `ws` does what it finds in a batch: on and on, a turn for others at times."""
    for groups in values:
        began = time.monotonic()
        for burst in groups:
            for value in burst:
                deliver(value)
            if time.monotonic() - began > TURN_S:
                await asyncio.sleep(0)
                began = time.monotonic()
        if settle is not None:
            await settle()
        await asyncio.sleep(REST_S)


async def websockets_library() -> None:
    """The `websockets` library as its manual broadcasts: encoded once, no compression."""
    import json

    import jwt
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.exceptions import ConnectionClosed

    users: dict[str, set[ServerConnection]] = {}

    async def handle(connection: ServerConnection) -> None:
        hello = json.loads(await connection.recv())
        user = jwt.decode(hello["token"], SECRET, algorithms=["HS256"])["sub"]
        users.setdefault(user, set()).add(connection)
        await connection.send('{"op":"welcome"}')
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass
        users[user].discard(connection)

    offset = 0

    def deliver(value: bytes) -> None:
        nonlocal offset
        message = json.loads(value)
        to = message.pop("toUserIds")
        text = json.dumps({"op": "msg", "at": f"0:{offset}", "message": message}, separators=(",", ":"))
        offset += 1
        broadcast((connection for user in to for connection in users.get(user, ())), text)

    async with serve(handle, "0.0.0.0", 0, compression=None, backlog=65535, ping_interval=None) as server:
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        tell(f"port {next(iter(server.sockets)).getsockname()[1]}")
        await obey(deliver, {})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(websockets_library())
