"""How busy the machine itself was: a trial on a full machine measures the machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

_EVERY_S = 1.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_s_of(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


class LoadMeter:
    """Notes each second the share of CPU time that was not idle, and how many threads wanted to run."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds: list[tuple[float, float, int]] = []
        self._now = now

    async def run(self) -> None:
        """Note until cancelled."""
        before = _cpu()
        while True:
            await asyncio.sleep(_EVERY_S)
            after = _cpu()
            total = sum(after) - sum(before)
            # Fields 3 and 4 are idle and waiting for a disk.
            idle = sum(after[3:5]) - sum(before[3:5])
            self.seconds.append((self._now(), 1 - idle / total if total else 0.0, _running()))
            before = after

    def over(self, from_s: float, to_s: float) -> dict[str, float]:
        """Return the mean share of CPU used, the share of seconds that were full, and the mean run queue."""
        found = [(busy, queue) for at_s, busy, queue in self.seconds if from_s <= at_s < to_s]
        if not found:
            return {}
        return {
            "cpu": round(sum(busy for busy, _ in found) / len(found), 2),
            "full_seconds": round(sum(1 for busy, _ in found if busy > 0.97) / len(found), 2),
            "run_queue": round(sum(queue for _, queue in found) / len(found), 1),
        }


def _cpu() -> list[int]:
    # user nice system idle iowait irq softirq steal; guest times are in user and nice already
    return [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _running() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("procs_running"):
            return int(line.split()[1])
    return 0
