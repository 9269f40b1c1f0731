"""Clients that do not read, beside clients that do: what the others notice, and what it costs.

Phases take turns within one run: 500 normal clients alone, then the same with one client that stops
reading and fifty that read one byte a second, each of which comes back as soon as it was cut. Every
client is sent 15 messages of 8 KB a second. What the slow ones leave unread passes
NOTIFYD_WS_MAX_UNSENT_BYTES within seconds, and they are cut, again and again.

p99 is from the message's making to its place in a normal client. Memory is what the server's resident
memory has at the end of a slow phase more than at the end of the phase before it: at most what
the slow ones may leave unread.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.harness import Ratio, gather
from benchmarks.push.drive import Program, clients, connect, kind_of, running

NORMAL = 500
STOPPED, DRIPPING = 1, 50
PER_S = 15
PADDING = 8_000
PHASE_MS = 6_000
#: NOTIFYD_WS_MAX_UNSENT_BYTES.
UNREAD_MB = 0.262
PHASES = 4
RATIOS = (
    Ratio("p99 of the others, with / without slow ones", "p99 with", "p99 without", 1.1, "at most"),
    Ratio("slow ones cut in each slow phase / all of them", "cut", "slow ones", 1.0),
    Ratio("memory more with slow ones, MB", "memory more", None, (STOPPED + DRIPPING) * UNREAD_MB, "at most"),
)
UNITS = {"p99 with": "ms", "p99 without": "ms", "memory more": "MB", "memory without": "MB"}


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Run the phases, for so many rounds."""
    title = f"{STOPPED + DRIPPING} slow clients beside {NORMAL}"
    yield gather(title, ("slow",), lambda _: measure(), RATIOS, rounds=min(rounds, 3), unit=UNITS)


def measure() -> dict[str, float]:
    """Return the figures of one run; medians over its phases."""
    kind = kind_of("ours")
    slow = NORMAL + STOPPED + DRIPPING
    p99: dict[bool, list[float]] = {False: [], True: []}
    memory: dict[bool, list[float]] = {False: [], True: []}
    cuts = []
    with running(kind.args) as server:
        port = int(server.answer()[1])
        with clients(port, NORMAL, kind) as normal:
            connect(normal, NORMAL)
            server.ask(f"stream {PER_S} {slow} {slow} {PADDING}")
            _phase(normal)
            for _ in range(PHASES):
                p99[False].append(_phase(normal))
                memory[False].append(_megabytes(server))
                before = _cut(server)
                with (
                    clients(port, STOPPED, kind, more=["-s", "0", "-r"], first=NORMAL) as stopped,
                    clients(port, DRIPPING, kind, more=["-s", "1", "-r"], first=NORMAL + STOPPED) as dripping,
                ):
                    connect(stopped, STOPPED)
                    connect(dripping, DRIPPING)
                    p99[True].append(_phase(normal))
                    memory[True].append(_megabytes(server))
                cuts.append(_cut(server) - before)
            server.ask("stop")
    return {
        "p99 without": statistics.median(p99[False]),
        "p99 with": statistics.median(p99[True]),
        "slow ones": STOPPED + DRIPPING,
        "cut": min(cuts),
        "memory without": statistics.median(memory[False]),
        "memory more": statistics.median(x - y for x, y in zip(memory[True], memory[False], strict=True)),
    }


def _phase(program: Program) -> float:
    """Let a phase go by; return the p99 of the normal clients in ms."""
    program.ask("reset")
    program.ask("latency")
    got = program.ask(f"await 1000000000 {PHASE_MS}")
    if int(got[1]) < NORMAL * PER_S or got[5] != "0":
        raise RuntimeError(f"the normal clients got {' '.join(got)}")
    return float(program.ask("latency")[3]) / 1000


def _cut(server: Program) -> int:
    return int(server.ask("counts")[1])


def _megabytes(server: Program) -> float:
    return server.rss_kib()["Rss"] * 1.024 / 1000
