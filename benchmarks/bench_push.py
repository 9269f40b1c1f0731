"""CPU of a delivery to one of 10,000 connections: ours, a C loop of `send`, and what others would use.

The time is user and system of the server's process, from the kernel's clock of it, over deliveries
that every client has checked: all there, in order. Clients look for frames all the time, so that
no server pays for waking them. Every server verifies an HS256 token per connection, takes each
message as the producer wrote it, apart, and encodes it once for all who get it.

- one by one: messages for 1,000 users each, one per user and tick;
- bursts: ten such messages for the same users within a tick;
- one user each: messages for one user, all that a message costs included;
- with acks: each client acknowledges, the server makes an event of it and confirms.

Ours has the real hub, door and event writer; of the way to the broker only the producer is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Ratio, gather
from benchmarks.push.drive import connect, deliver, server_and_clients
from benchmarks.push.work import Work

COUNT = 10_000
SERVERS = ("C loop", "ours", "ours, acks", "Node ws", "socket.io", "websockets")
#: The limit of recipients in an envelope.
FANOUT = 1000

RATIOS = (
    Ratio("one by one: ours / C loop of send", "ours", "C loop", 1.2, "at most"),
    Ratio("one by one: ours / Node ws", "ours", "Node ws", 0.85, "at most"),
    Ratio("one by one: ours / socket.io", "ours", "socket.io", 0.5, "at most"),
    Ratio("one by one: ours / websockets", "ours", "websockets", 0.5, "at most"),
    Ratio("ours: bursts of 10 / one by one", "ours, bursts of 10", "ours", 0.3, "at most"),
)


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Run all servers, round by round."""
    title = f"push, CPU per delivery at {COUNT:,} connections"
    yield gather(title, SERVERS, measure, RATIOS, rounds=rounds, unit="us")


def measure(name: str) -> dict[str, float]:
    """Measure one server."""
    with server_and_clients(name, COUNT) as (server, program):
        connect(program, COUNT)
        one_by_one = Work(10, 1, FANOUT, COUNT)
        deliver(server, program, Work(2, 1, FANOUT, COUNT))
        figures = {name: deliver(server, program, one_by_one)}
        if name != "C loop":
            figures[f"{name}, bursts of 10"] = deliver(server, program, Work(2, 10, FANOUT, COUNT))
            figures[f"{name}, one user each"] = deliver(server, program, Work(2, 1, 1, COUNT))
        if name.startswith("ours") and server.ask("counts")[2] != "0":
            raise RuntimeError("events were dropped: not the whole work was done")
    return figures
