"""A TCP balancer as a process: connections to the port of a service go to its endpoints in turn.

It is as blind as kube-proxy: it knows the endpoints that it was told, tries one of them once, and leaves
alone what it has joined. Journal: `open AT_MS SERVICE ENDPOINT`, `refused AT_MS SERVICE ENDPOINT` and
`none AT_MS SERVICE` for each new connection, `reset AT_MS SERVICE ENDPOINT` where an endpoint broke one off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from tests.storm.records import Journal, now_ms, run_party

_LOOK_S = 0.05
_CONNECT_S = 5.0
#: What a side may be behind before the other one is not read any more.
_BUFFER_BYTES = 256 * 1024


class BalancerConfig(msgspec.Struct, frozen=True):
    """`ports` to listen on, by service; `endpoints` is a JSON file of the ports behind them, by service."""

    ports: Mapping[str, int]
    endpoints: str


class _Side(asyncio.Protocol):
    """One side of a connection: what comes in goes out at `peer`."""

    def __init__(self) -> None:
        self.peer: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self.lost: Exception | None = None
        self.is_over = False
        self.is_lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.is_over = True
        peer = self.peer
        if peer is None or peer.transport is None or peer.is_over:
            # Nobody has anything to say any more; what was said is still written, to both.
            if peer is not None and peer.transport is not None:
                peer.transport.close()
            return False
        if not peer.transport.is_closing():
            peer.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.is_lost.set()
        peer = self.peer.transport if self.peer is not None else None
        if peer is not None and not peer.is_closing():
            peer.abort() if exc is not None else peer.close()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()


class Balancer:
    """All services of one party."""

    def __init__(self, config: BalancerConfig, journal: Journal) -> None:
        self._path = Path(config.endpoints)
        self._journal = journal
        self._endpoints: dict[str, list[int]] = {}
        self._turns = dict.fromkeys(config.ports, 0)
        self._changed_at = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Follow the file of endpoints."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                changed_at = self._path.stat().st_mtime_ns
                if changed_at != self._changed_at:
                    self._changed_at = changed_at
                    self._endpoints = msgspec.json.decode(self._path.read_bytes())
            await asyncio.sleep(_LOOK_S)

    def accept(self, service: str) -> asyncio.Protocol:
        """Take a connection of a client."""
        return _Client(self, service)

    def begin(self, client: _Client) -> None:
        """Find an endpoint for a client."""
        task = asyncio.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: _Client) -> None:
        service = client.service
        places = self._endpoints.get(service, [])
        assert client.transport is not None
        if not places:
            self._journal.write("none", now_ms(), service)
            client.transport.abort()
            return
        turn = self._turns[service] = self._turns[service] + 1
        place = places[turn % len(places)]
        server = _Side()
        server.peer = client
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await loop.create_connection(lambda: server, "127.0.0.1", place)
        except (OSError, TimeoutError):
            self._journal.write("refused", now_ms(), service, place)
            client.transport.abort()
            return
        self._journal.write("open", now_ms(), service, place)
        client.go_on(server)
        await server.is_lost.wait()
        if server.lost is not None:
            self._journal.write("reset", now_ms(), service, place)


class _Client(_Side):
    """The side of a client: what it says before there is an endpoint waits."""

    def __init__(self, balancer: Balancer, service: str) -> None:
        super().__init__()
        self.service = service
        self._balancer = balancer
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._balancer.begin(self)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def go_on(self, server: _Side) -> None:
        """Join both sides."""
        self.peer = server
        assert self.transport is not None and server.transport is not None
        if self.transport.is_closing():
            server.transport.close()
        elif self._early:
            server.transport.write(b"".join(self._early))
            self._early.clear()


async def main(config: BalancerConfig, journal: Journal, stop: asyncio.Event) -> None:
    balancer = Balancer(config, journal)
    watching = asyncio.create_task(balancer.watch())
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda name=name: balancer.accept(name), "127.0.0.1", port, backlog=4096)  # type: ignore[misc]
        for name, port in config.ports.items()
    ]
    await stop.wait()
    for server in servers:
        server.close()
    watching.cancel()


if __name__ == "__main__":
    run_party(BalancerConfig, main)
