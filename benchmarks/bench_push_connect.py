"""A storm of connects: 10,000 clients at once, as after a deploy that ended its processes without a drain.

Each connects, upgrades, says hello with its token and waits for its `welcome`. All begin within the same
moment, so the times are mostly those of standing in line.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Ratio, gather
from benchmarks.push.drive import connect, server_and_clients

COUNT = 10_000
RATIOS: tuple[Ratio, ...] = ()


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Measure ours, and Node's `ws` beside it."""
    units = {
        f"{name}, {figure}": unit
        for name in ("ours", "Node ws")
        for figure, unit in (
            ("accepted", "a second"),
            ("p50 to welcome", "ms"),
            ("p99 to welcome", "ms"),
            ("CPU", "us"),
        )
    }
    title = f"push, {COUNT:,} connects at once"
    yield gather(title, ("ours", "Node ws"), measure, RATIOS, rounds=min(rounds, 3), unit=units)


def measure(name: str) -> dict[str, float]:
    """Have all clients connect."""
    with server_and_clients(name, COUNT, in_flight=COUNT) as (server, program):
        before = server.cpu_us()
        found = connect(program, COUNT)
        return {
            f"{name}, accepted": COUNT / found.seconds,
            f"{name}, p50 to welcome": found.p50_ms,
            f"{name}, p99 to welcome": found.p99_ms,
            f"{name}, CPU": (server.cpu_us() - before) / COUNT,
        }
