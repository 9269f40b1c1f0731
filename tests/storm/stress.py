"""`python -m tests.storm.stress`: more and more load on one process of each role, until it does not keep up.

The knee is the highest rate that it does keep up with. The report is a page in Markdown, with what follows
from the figures for the autoscalers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.processes import NotifydProcess
from tests.storm.call import CallConfig
from tests.storm.cluster import Cluster
from tests.storm.devices import DevicesConfig
from tests.storm.load import LoadMeter, cpu_s_of
from tests.storm.produce import ProducerConfig
from tests.storm.receive import ReceiverConfig
from tests.storm.records import lines_of
from tests.storm.stress_report import Knee, Step, render, render_sweep, sweep_part
from tests.storm.stress_sweep import measure_sweep

_ROOT: Final = Path(__file__).resolve().parents[2]
_PAGE: Final = _ROOT / "docs/reference/stress.md"
#: The first rate of each role, messages a second.
_FIRST: Final = {"persist": 400.0, "deliver": 50.0, "ws": 200.0, "api": 50.0}
_PLANS: Final = {"persist": "one", "deliver": "hook", "ws": "one", "api": "one"}
_USERS: Final = 500
#: Of the time between two rates, when it is cut in two, and how often.
_HALVINGS: Final = 2
#: A process that keeps up is late by no more than this, in seconds, when a step is over.
_LATE_S: Final = 1.0
#: The backend could not send what it was to send if it took this much longer.
_SLOW_SENDER: Final = 1.15
_READY_S: Final = 60.0
_CATCH_UP_S: Final = 120.0
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Look:
    """What a process shows: CPU seconds, how late it is, its memory (bytes), its loop's lag (s)."""

    cpu_s: float
    late_s: float
    memory: float
    loop_lag_s: float


class Search:
    """Looks for the knee of one role."""

    def __init__(self, cluster: Cluster, role: str, step_s: float) -> None:
        self._cluster = cluster
        self._role = role
        self._step_s = step_s
        self._number = 0
        self._process: NotifydProcess
        self._began = time.monotonic()

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> Knee:
        """Start one process, double the rate until it is too much, and cut between the last two."""
        began = time.monotonic()
        name = f"{self._role}-0"
        self._process = self._cluster.add_role(self._role, name).start()
        while not await self._cluster.are_ready():
            if time.monotonic() - began > _READY_S or not self._process.is_running:
                raise RuntimeError(f"{name} did not become ready\n{self._process.tail()}")
            await asyncio.sleep(0.1)
        ready_s = time.monotonic() - began
        await self._connect()
        steps = await self._climb()
        knee = Knee(self._role, round(ready_s, 1), tuple(steps))
        if knee.is_at_least and self._role in {"persist", "deliver"}:
            knee = replace(knee, backlog_per_s=await self._work_off(steps[-1].rate))
        self._process.sigterm(timeout_s=60.0)
        self._cluster.admin_ports.pop(name)
        return knee

    async def _work_off(self, rate: float) -> float:
        """Stop it, send, start it again, and return how many a second it works off when nobody sends."""
        self._process.sigterm(timeout_s=60.0)
        count = int(rate * self._step_s)
        await self._send(count, rate)
        self._process.start()
        began_s = ended_s = 0.0
        while not ended_s:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(aiohttp.ClientError, OSError):
                metrics = await self._metrics()
                taken, lag = metrics.get("notifyd_records_total", 0.0), metrics.get("notifyd_lag", 0.0)
                if taken and not began_s:
                    began_s = self._now()
                if taken >= count and not lag:
                    ended_s = self._now()
        return round(count / max(ended_s - began_s, _LOOK_S), -1)

    async def _connect(self) -> None:
        if self._role != "ws":
            return
        config = DevicesConfig(1, _USERS, 0, _USERS, tuple(self._cluster.push_urls), has_streams=False)
        self._cluster.add_party("devices", config)
        while (await self._metrics()).get("notifyd_ws_connections", 0) < _USERS:  # noqa: ASYNC110 - asks
            await asyncio.sleep(0.2)

    async def _climb(self) -> list[Step]:
        await self._step(_FIRST[self._role])  # warms up, and is not told
        steps: list[Step] = []
        good, bad = 0.0, math.inf
        rate, halvings = _FIRST[self._role], 0
        while True:
            step = await self._step(rate)
            steps.append(step)
            if step.keeps_up:
                good = rate
            else:
                bad = rate
                await self._catch_up()
            if step.is_senders_limit:
                break
            if bad < math.inf:
                if halvings == _HALVINGS or not good:
                    break
                halvings += 1
                rate = round((good + bad) / 2)
            else:
                rate *= 2
        return steps

    async def _step(self, rate: float) -> Step:
        count = int(rate * self._step_s)
        before, load = await self._look(), LoadMeter(self._now)
        metering = asyncio.create_task(load.run())
        p99_ms, took_s = await self._send(count, rate)
        after = await self._look()
        metering.cancel()
        await asyncio.gather(metering, return_exceptions=True)
        is_slow = took_s > self._step_s * _SLOW_SENDER
        # A client that waits for its answers is slow because the role is.
        is_senders_limit = is_slow and self._role != "api"
        late_s = max(after.late_s, p99_ms / 1000)
        keeps_up = late_s <= _LATE_S and not is_slow
        return Step(
            rate=rate,
            keeps_up=keeps_up,
            is_senders_limit=is_senders_limit and late_s <= _LATE_S,
            cpu=round((after.cpu_s - before.cpu_s) / took_s, 2),
            late_s=round(late_s, 2),
            loop_lag_s=round(after.loop_lag_s, 3),
            memory_mib=round(after.memory / 2**20),
            machine=load.over(0.0, math.inf),
        )

    async def _send(self, count: int, rate: float) -> tuple[float, float]:
        """Send; return the 99th percentile of answers (ms; 0 where nobody waits), and what it took (s)."""
        self._number += 1
        name = f"{self._role}-load-{self._number}"
        plan, port = _PLANS[self._role], self._cluster.hook_port
        if self._role == "api":
            url = f"http://127.0.0.1:{self._cluster.http_ports['api-0']}"
            config: Any = CallConfig(self._number, count, rate, _USERS, port, url, plan)
            party = self._cluster.add_party(name, config, module="call")
        else:
            config = ProducerConfig(self._number, count, rate, _USERS, port, 10.0, plan=plan)
            party = self._cluster.add_party(name, config, module="produce")
        await party.wait(self._step_s * 10)
        sent = [(int(one[3]), int(one[4])) for one in lines_of(party.journal) if one[0] == "ok"]
        took_s = (max(confirmed for _, confirmed in sent) - min(handed for handed, _ in sent)) / 1000
        waits = sorted(confirmed - handed for handed, confirmed in sent)
        return (waits[int(len(waits) * 0.99)] if self._role == "api" else 0.0), took_s

    async def _catch_up(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                while (await self._look()).late_s > 0.2:  # noqa: ASYNC110 - asks
                    await asyncio.sleep(0.5)

    async def _look(self) -> _Look:
        metrics = await self._metrics()
        return _Look(
            cpu_s=cpu_s_of(self._process.pid),
            late_s=metrics.get("notifyd_lag_seconds", 0.0),
            memory=metrics.get("process_resident_memory_bytes", 0.0),
            loop_lag_s=metrics.get("notifyd_event_loop_lag_seconds", 0.0),
        )

    async def _metrics(self) -> dict[str, float]:
        """Return the highest sample of each metric."""
        found: dict[str, float] = {}
        url = f"http://127.0.0.1:{self._cluster.admin_ports[f'{self._role}-0']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            for family in text_string_to_metric_families(await answer.text()):
                for sample in family.samples:
                    found[sample.name] = max(found.get(sample.name, 0.0), sample.value)
        return found


async def _search(roles: Sequence[str], step_s: float, directory: Path) -> list[Knee]:
    knees = []
    for role in roles:
        # Each has a broker and a database that hold nothing yet.
        async with Cluster(directory / role, {}, {}) as cluster:
            if role == "deliver":
                cluster.add_party("receive", ReceiverConfig(cluster.hook_port, 0.0))
            knee = await Search(cluster, role, step_s).run()
        knees.append(knee)
        for step in knee.steps:
            print(f"{role:<8} {step}", file=sys.stderr, flush=True)
    return knees


def main() -> int:
    """Search, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.stress", description=__doc__)
    parser.add_argument("--role", action="append", choices=(*_FIRST, "sweep"), help="this role alone")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each rate lasts (10)")
    parser.add_argument("--output", type=Path, default=_PAGE, help="the page (docs/reference/stress.md)")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="notifyd-stress-"))
    directory.chmod(0o711)  # as root, the database server is another user, who must get in
    roles = arguments.role or (*_FIRST, "sweep")
    before = arguments.output.read_text() if arguments.output.exists() else ""
    searched = [role for role in roles if role in _FIRST]
    # What is not measured now stays as it is on the page.
    page, swept = before.removesuffix(sweep_part(before)), sweep_part(before)
    if searched:
        page = render(asyncio.run(_search(searched, arguments.seconds, directory)))
    if "sweep" in roles:
        swept = render_sweep(asyncio.run(measure_sweep(directory / "sweep")))
    arguments.output.write_text(page + swept)
    print(f"written: {arguments.output}; logs: {directory}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
