"""The balancer of a roll: connections end with both of their sides, and none is left open."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from tests.fixtures.waiting import eventually
from tests.storm.balancer import Balancer, BalancerConfig
from tests.storm.records import Journal, lines_of


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_connection_ends_with_its_sides_and_leaves_no_descriptor(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read(100))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_bytes(msgspec.json.encode({"api": [server.sockets[0].getsockname()[1]]}))
    journal = Journal(tmp_path / "journal")
    balancer = Balancer(BalancerConfig({"api": 0, "ws": 0}, str(endpoints)), journal)
    watching = asyncio.create_task(balancer.watch())
    loop = asyncio.get_running_loop()
    doors = [
        await loop.create_server(lambda n=name: balancer.accept(n), "127.0.0.1", 0) for name in ("api", "ws")
    ]
    api, ws = (door.sockets[0].getsockname()[1] for door in doors)
    await asyncio.sleep(0)
    before = count_descriptors()
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", api)
        writer.write(b"hello")
        assert await reader.read() == b"you said hello"
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", ws)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b"", "nobody serves it"
    writer.close()
    await eventually(lambda: count_descriptors() <= before, what="all to be closed")
    journal.close()
    assert [one[0] for one in lines_of(tmp_path / "journal")] == ["open", "open", "open", "none"]
    watching.cancel()
    for door in (server, *doors):
        door.close()
