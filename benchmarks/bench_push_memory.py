"""Memory of an idle, authenticated connection in user space: the slope over several counts of them.

One server process, more and more clients; what is told is how its resident memory grows from one
count to the next, after its garbage was collected. What the kernel holds for a socket is not in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.harness import Ratio, gather
from benchmarks.push.drive import connect, server_and_clients

COUNTS = (1_000, 4_000, 7_000, 10_000)
RATIOS = (Ratio("KB per connection, ours", "ours", None, 3.0, "at most"),)


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Measure ours and Node's `ws`."""
    title = "push, memory per idle connection"
    yield gather(title, ("ours", "Node ws"), measure, RATIOS, rounds=min(rounds, 3), unit="KB")


def measure(name: str) -> dict[str, float]:
    """Return KB (1,000 bytes) a connection."""
    sizes = []
    with server_and_clients(name, COUNTS[-1], in_flight=50) as (server, program):
        for before, count in zip((0, *COUNTS), COUNTS, strict=False):
            connect(program, count - before)
            server.ask("collect")
            sizes.append(server.rss_kib()["Rss"] * 1.024)
    return {name: statistics.linear_regression(COUNTS, sizes).slope}
