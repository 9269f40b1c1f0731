"""What 15,000 connections on one process take: `python -m benchmarks.scale [--count N]`, about a minute.

The server is ours without a broker (as in bench_push), the clients are two processes on this machine.
Prints a line per figure; docs/explanation/scale.md reckons on with them. More than 20,000
descriptors in a process need `ulimit -n`.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.push.drive import Program, clients, kind_of, running
from benchmarks.push.work import REST_S, Work

#: A heartbeat of NOTIFYD_WS_HEARTBEAT_S and a little.
IDLE_S = 26.0
FANOUT = 1000
BROADCASTS = 10
DRAIN_S = 5.0


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=15_000)
    count = parser.parse_args().count
    kind = kind_of("ours")
    with ExitStack() as stack:
        server = stack.enter_context(running(kind.args))
        port = int(server.answer()[1])
        half = count // 2
        programs = [
            stack.enter_context(clients(port, half, kind)),
            stack.enter_context(clients(port, count - half, kind, first=half)),
        ]
        _read_for_others(server)
        empty, slab = _rss(server), _slab()
        _connect(server, programs, [half, count - half])
        _show("user space a connection", (_rss(server) - empty) / count, "KB")
        _show("resident memory", _rss(server) / 1000, "MB")
        # Both ends are on this machine.
        _show("kernel memory an end (slab)", (_slab() - slab) / count / 2, "KB")
        began = time.monotonic()
        server.ask("collect")
        _show("a full garbage collection stops the process for", (time.monotonic() - began) * 1000, "ms")
        _idle(server, count)
        _broadcast(server, programs, count)
        _drain(server, programs, count)


def _read_for_others(server: Program) -> None:
    work = Work(1, 1, 1, 20_000)
    server.ask(work.command)
    before = server.cpu_us()
    server.ask("go")
    _show("CPU of a message for nobody here, without reading it", (server.cpu_us() - before) / 20_000, "us")


def _connect(server: Program, programs: list[Program], counts: list[int]) -> None:
    began, before = time.monotonic(), server.cpu_us()
    for program, count in zip(programs, counts, strict=True):
        program.tell(f"connect {count}")
    answers = [program.answer() for program in programs]
    seconds = time.monotonic() - began
    assert [int(answer[6]) for answer in answers] == [0, 0], answers
    total = sum(counts)
    _show("connects", total / seconds, "a second")
    _show("CPU of a connect", (server.cpu_us() - before) / total, "us")
    _show("p99 to welcome, 400 at a time", max(float(answer[4]) for answer in answers) / 1000, "ms")


def _idle(server: Program, count: int) -> None:
    before = server.cpu_us()
    time.sleep(IDLE_S)
    spent = server.cpu_us() - before
    _show("CPU while idle, heartbeats every 25 s", spent / IDLE_S / 1e4, "% of a core")
    _show("CPU of a heartbeat", spent / count, "us")


def _broadcast(server: Program, programs: list[Program], count: int) -> None:
    for program in programs:
        program.ask("reset")
    work = Work(BROADCASTS, 1, FANOUT, count)
    server.ask(work.command)
    before, began = server.cpu_us(), time.monotonic()
    server.tell("go")
    for program, users in zip(programs, (count // 2, count - count // 2), strict=True):
        program.tell(f"await {BROADCASTS * users} 60000")
    got = [program.answer() for program in programs]
    seconds = time.monotonic() - began - (BROADCASTS - 1) * REST_S
    server.answer()
    assert sum(int(words[1]) for words in got) == work.deliveries, got
    _show(f"a message to all {count:,}, until the last has it", seconds / BROADCASTS * 1000, "ms")
    _show("CPU of a delivery in it", (server.cpu_us() - before) / work.deliveries, "us")


def _drain(server: Program, programs: list[Program], count: int) -> None:
    before, began = server.cpu_us(), time.monotonic()
    server.tell(f"drain {DRAIN_S:g}")
    closed = 0
    while closed < count and time.monotonic() - began < DRAIN_S + 5:
        time.sleep(0.05)
        closed = sum(int(program.ask("closed")[1]) for program in programs)
    _show(f"drain with a window of {DRAIN_S:g} s, until all are gone", time.monotonic() - began, "s")
    _show("CPU of it", (server.cpu_us() - before) / count, "us a connection")
    _show("clients that saw their end", closed, f"of {count:,}")


def _rss(server: Program) -> float:
    server.ask("collect")
    return server.rss_kib()["Rss"] * 1.024


def _slab() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:")) * 1.024


def _show(what: str, value: float, unit: str) -> None:
    print(f"{what:<56} {value:>10,.2f} {unit}", flush=True)


if __name__ == "__main__":
    main()
