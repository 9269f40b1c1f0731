"""`python -m tests.storm.drain`: SIGTERM to a ws process that all devices are connected to, under load.

All must be on the other one within the window that the `drain` frame named, no second may see more
reconnects than the window implies, plus a fifth and what chance adds, and no message may be missed.
Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.storm.cluster import Cluster
from tests.storm.push_check import Lives, spread
from tests.storm.trial import READY_S, Tell, Trial, add_arguments, run_trial, settings_of

#: Load before and after the drain.
_BEFORE_S: Final = 5.0
_AFTER_S: Final = 10.0
#: What a reconnect may take beyond the window: a handshake on a busy machine.
_LATE_S: Final = 3.0
_MORE: Final = 1.2


class DrainTrial:
    """Runs once. `window_s` is what the devices are told, and what the rate is judged by."""

    def __init__(self, arguments: argparse.Namespace, directory: Path, tell: Tell) -> None:
        self._arguments = arguments
        self._directory = directory
        self._tell = tell

    async def run(self) -> Trial:
        """Connect all to one process, end it, and judge."""
        arguments = self._arguments
        drain_s = arguments.drain
        env = {
            "NOTIFYD_DRAIN_S": str(drain_s),
            "NOTIFYD_GRACE_S": str(drain_s + 15),
            "NOTIFYD_KAFKA_REBALANCE_TIMEOUT_S": str(drain_s + 30),
            **settings_of(arguments),
        }
        async with Cluster(self._directory, {"persist": 1, "ws": 2}, env) as cluster:
            for process in cluster.roles.values():
                process.start()
            trial = Trial(cluster, arguments.seed, arguments.devices, self._tell)
            await trial.until(cluster.are_ready, "all roles to be ready", READY_S)
            await trial.connect(arguments.parties, is_shuffled=False, has_streams=False)
            seconds = _BEFORE_S + drain_s + _AFTER_S
            self._tell(f"begins: {arguments.rate:g} messages/s for {seconds:g} s")
            backend = trial.send(int(arguments.rate * seconds), arguments.rate)
            await asyncio.sleep(_BEFORE_S)
            leaver = cluster.roles["ws-0"]
            began_ms = time.time() * 1000
            self._tell(f"{trial.now():7.2f} s  ws-0        SIGTERM")
            leaver.signal(signal.SIGTERM)
            if await trial.until(lambda: not leaver.is_running, "ws-0 to end", drain_s + 20, every_s=0.05):
                trial.found.figures["took_s"] = round(time.time() - began_ms / 1000, 2)
                if leaver.returncode != 0:
                    trial.found.problems.append(f"ws-0 ended with {leaver.returncode}\n{leaver.tail()}")
            cluster.admin_ports.pop("ws-0")  # it stays away
            window_s = float(leaver.log_entries("push_drain")[0]["window_s"])
            await trial.conclude(backend, seconds + 120)
            port = int(cluster.push_urls[1].rpartition(":")[2].partition("/")[0])
            self._judge(trial, began_ms, port, window_s)
        return trial

    def _judge(self, trial: Trial, began_ms: float, port: int, window_s: float) -> None:
        found = trial.found
        moves = find_moves(trial.lives, began_ms, port)
        found.figures |= told_of(moves, self._arguments.devices, window_s)
        found.problems += problems_of(moves, self._arguments.devices, window_s)


def find_moves(lives: Lives, began_ms: float, port: int) -> dict[str, tuple[float, float]]:
    """Return when each device tried for the process at `port`, and when it had its session there (s)."""
    moves = {}
    for name, life in lives.devices.items():
        opened = next((at for at, there in life.opens if there == port and at >= began_ms), None)
        tried = next((at for at, state in life.states if state == "connecting" and at >= began_ms), None)
        if opened is not None and tried is not None:
            moves[name] = ((tried - began_ms) / 1000, (opened - began_ms) / 1000)
    return moves


def told_of(moves: dict[str, tuple[float, float]], devices: int, window_s: float) -> dict[str, Any]:
    """Return the figures of a drain."""
    return {
        "window_s": window_s,
        "implied_per_s": round(devices / window_s, 1),
        "tried_per_s": _by_second(tried for tried, _ in moves.values()),
        "opened_per_s": _by_second(opened for _, opened in moves.values()),
        "tried_s": spread([tried for tried, _ in moves.values()]),
        "opened_s": spread([opened for _, opened in moves.values()]),
        "between_s": spread([opened - tried for tried, opened in moves.values()]),
    }


def problems_of(moves: dict[str, tuple[float, float]], devices: int, window_s: float) -> list[str]:
    """Return what is not as the window promises."""
    problems = []
    if len(moves) != devices:
        problems.append(f"{devices - len(moves)} devices never came to the other process")
    late = sum(1 for _, opened in moves.values() if opened > window_s + _LATE_S)
    if late:
        problems.append(f"{late} devices came more than {_LATE_S:g} s after the window of {window_s:g} s")
    implied = devices / window_s
    # Seconds are counts of chance: three standard deviations, which matter where devices are few.
    most = implied * _MORE + 3 * math.sqrt(implied)
    for second, count in enumerate(_by_second(tried for tried, _ in moves.values())):
        if count > most:
            problems.append(f"{count} reconnects in second {second}; {most:.0f} may be")
    return problems


def _by_second(times: Any) -> list[int]:
    counts = Counter(int(at_s) for at_s in times)
    return [counts[second] for second in range(max(counts, default=-1) + 1)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storm.drain", description=__doc__)
    add = parser.add_argument
    add("--devices", type=int, default=5000, help="how many (5000)")
    add("--drain", type=float, default=60.0, help="NOTIFYD_DRAIN_S (60)")
    add("--rate", type=float, default=50.0, help="messages a second (50)")
    add_arguments(parser)
    return parser


def main() -> int:
    """Run the trial that the arguments ask for."""
    arguments = _parser().parse_args()
    return run_trial("drain", arguments, lambda directory, tell: DrainTrial(arguments, directory, tell).run())


if __name__ == "__main__":
    sys.exit(main())
