"""Memory, descriptors and tasks of each process over time, and how fast they grow."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

_ANSWER_S = 2.0
#: A life's first part is growth by nature: caches, pools, imports.
_WARM_UP_SHARE: Final = 0.3
#: What is shorter says nothing of an hour.
_LONG_S: Final = 300.0
_LEAST: Final = 10
MEASURES: Final = ("rss_kib", "descriptors", "threads", "tasks")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process, `at_s` of the storm. `life` is its process id.

    `tasks`, `oldest_s`, the age of the oldest record in flight, and `lag_s` of the loop may be unknown (-1).
    """

    at_s: float
    name: str
    life: int
    rss_kib: int
    descriptors: int
    threads: int
    tasks: int
    oldest_s: float = -1.0
    lag_s: float = -1.0


@dataclass(frozen=True, slots=True)
class Growth:
    """One measure of one long life: first and last value after the warm-up, and its slope an hour."""

    name: str
    life_s: float
    measure: str
    first: float
    last: float
    most: float
    per_hour: float


class Sampler:
    """Samples the processes that `pids` names, each `every_s`; `ports` are where their metrics are.

    With `keep`, all metrics are kept there, a file for each process.
    """

    def __init__(
        self,
        pids: Callable[[], Mapping[str, int]],
        ports: Mapping[str, int],
        now: Callable[[], float],
        every_s: float,
        keep: Path | None = None,
    ) -> None:
        self.samples: list[Sample] = []
        self._pids = pids
        self._ports = ports
        self._now = now
        self._every_s = every_s
        self._keep = keep

    async def run(self) -> None:
        """Sample until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
            while True:
                await asyncio.gather(*(self._look(session, *one) for one in self._pids().items()))
                await asyncio.sleep(self._every_s)

    async def _look(self, session: aiohttp.ClientSession, name: str, pid: int) -> None:
        tasks, oldest_s, lag_s = -1, -1.0, -1.0
        if name in self._ports:
            try:
                async with session.get(f"http://127.0.0.1:{self._ports[name]}/metrics") as answer:
                    told = await answer.text()
                if self._keep is not None:
                    with (self._keep / f"metrics-{name}.txt").open("a") as file:
                        file.write(f"# at_s {self._now():.1f}\n{told}")
                tasks = int(_most(told, "notifyd_event_loop_tasks"))
                oldest_s = _most(told, "notifyd_oldest_in_flight_seconds")
                lag_s = _most(told, "notifyd_event_loop_lag_seconds")
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # starting, ending or frozen
        found = read_process(pid)
        if found is not None:
            self.samples.append(Sample(round(self._now(), 1), name, pid, *found, tasks, oldest_s, lag_s))


def read_process(pid: int) -> tuple[int, int, int] | None:
    """Return memory (KiB), descriptors and threads of a process; `None` when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:
        return None
    return int(fields["VmRSS"].split()[0]), descriptors, int(fields["Threads"])


def _most(metrics: str, name: str) -> float:
    """Return the highest sample of a metric; -1 where there is none."""
    values = [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    ]
    return max(values, default=-1.0)


def find_growth(samples: Sequence[Sample]) -> list[Growth]:
    """Return the growth in each life long enough to tell."""
    lives: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        lives.setdefault((sample.name, sample.life), []).append(sample)
    found = []
    for (name, _), life in sorted(lives.items()):
        lasted_s = life[-1].at_s - life[0].at_s
        settled = [one for one in life if one.at_s >= life[0].at_s + lasted_s * _WARM_UP_SHARE]
        if lasted_s < _LONG_S or len(settled) < _LEAST:
            continue
        for measure in MEASURES:
            points = [(one.at_s, float(getattr(one, measure))) for one in settled]
            points = [(at_s, value) for at_s, value in points if value >= 0]
            if len(points) < _LEAST:
                continue
            values = [value for _, value in points]
            slope = statistics.linear_regression([at_s for at_s, _ in points], values).slope
            found.append(
                Growth(name, lasted_s, measure, values[0], values[-1], max(values), round(slope * 3600, 1))
            )
    return found
