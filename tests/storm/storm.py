"""One storm from its first process to its last: load, faults, calm, and what the checker says of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notifyd.dev.child import is_alive
from notifyd.stream.dead_letter import read_dead_letters
from tests.fixtures.system import children_of
from tests.storm import explain
from tests.storm.check import Verdict, check
from tests.storm.cluster import Cluster, role_of
from tests.storm.collect import collect, count_connected, read_reconnects
from tests.storm.groups import ROLES, Groups, Standstill
from tests.storm.keeper import End, Keeper
from tests.storm.listen import ListenerConfig
from tests.storm.phases import Phase, compare_phases
from tests.storm.produce import ProducerConfig
from tests.storm.receive import ReceiverConfig
from tests.storm.samples import Growth, Sampler, find_growth
from tests.storm.schedule import Fault

_READY_S = 90.0
#: The longest that nothing may move before we give up: a retry may wait a minute for its turn.
_STILL_S = 100.0
#: What even a busy machine handles in a second, on the whole.
_SLOWEST_PER_S = 60.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What storm to raise. `counts` of processes by role; `flaky` share of first webhook calls."""

    messages: int
    storm_s: float
    seed: int
    per_s: float
    counts: dict[str, int]
    listeners: int
    flaky: float
    sample_s: float
    extra_env: dict[str, str]
    judges_push: bool = False
    keeps_metrics: bool = False


@dataclass
class Outcome:
    """All that is known at the end of a storm."""

    verdict: Verdict = field(default_factory=lambda: Verdict((), {}))
    standstills: list[Standstill] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    lives: int = 0
    skipped: int = 0
    outages: list[tuple[str, float, float]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    lag: dict[str, int] = field(default_factory=dict)
    dead: Counter[str] = field(default_factory=Counter)
    reconnects_s: list[float] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    load_s: float = 0.0
    settle_s: float = 0.0
    explained: str = ""

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing dead, no lag, and every process ended as it should."""
        bad_ends = [end for end in self.ends if not end.is_good]
        found = (self.verdict.losses, self.lag, self.dead, self.problems, self.leftovers, bad_ends)
        return not any(found)


class Storm:
    """Runs once. `tell` gets lines for people."""

    def __init__(self, options: Options, schedule: tuple[Fault, ...], directory: Path, tell: Tell) -> None:
        self._options = options
        self._schedule = schedule
        self._directory = directory
        self._tell = tell
        self._began = time.monotonic()
        self._began_ms = 0.0
        self._keepers: dict[str, Keeper] = {}
        self._outcome = Outcome()

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> Outcome:
        """Raise it, let it calm down, and judge."""
        outcome = self._outcome
        before = set(children_of(os.getpid()))
        async with Cluster(self._directory, self._options.counts, self._options.extra_env) as cluster:
            groups = Groups(cluster.settings, self._now)
            await self._set_up(cluster)
            await self._rage(cluster, groups)
            try:
                await self._calm_down(cluster, groups)
            finally:
                await groups.close()
            await self._judge(cluster)
        outcome.leftovers = [
            mark for mark in children_of(os.getpid()) if mark not in before and is_alive(mark)
        ]
        return outcome

    async def _set_up(self, cluster: Cluster) -> None:
        options = self._options
        cluster.add_party("receive", ReceiverConfig(cluster.hook_port, options.flaky))
        self._keepers = {name: Keeper(process, self._now) for name, process in cluster.roles.items()}
        for keeper in self._keepers.values():
            keeper.start()
        await self._until(cluster.are_ready, "all roles to be ready", _READY_S)
        if options.listeners:
            urls = tuple(cluster.push_urls)
            listen = cluster.add_party("listen", ListenerConfig(options.seed, options.listeners, urls))
            await self._until(
                lambda: count_connected(listen.journal) == options.listeners, "devices to be connected", 60.0
            )

    async def _until(self, look: Callable[[], bool | Awaitable[bool]], what: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            found = look()
            if await found if isinstance(found, Awaitable) else found:
                return
            if time.monotonic() > deadline:
                self._outcome.problems.append(f"waited {limit_s:g} s in vain for {what}")
                return
            await asyncio.sleep(0.2)

    # The storm

    async def _rage(self, cluster: Cluster, groups: Groups) -> None:
        options = self._options
        self._tell(f"begins: {options.messages} messages at {options.per_s:.0f}/s")
        self._began, self._began_ms = time.monotonic(), time.time() * 1000
        backend = cluster.add_party(
            "produce",
            ProducerConfig(
                options.seed, options.messages, options.per_s, options.listeners, cluster.hook_port, 10.0
            ),
        )
        sampler = Sampler(
            lambda: _pids(cluster),
            cluster.admin_ports,
            self._now,
            every_s=options.sample_s,
            keep=cluster.logs if options.keeps_metrics else None,
        )
        watching = [asyncio.create_task(sampler.run()), asyncio.create_task(groups.watch())]
        try:
            async with asyncio.TaskGroup() as tasks:
                for fault in self._schedule:
                    await asyncio.sleep(max(0.0, fault.at_s - self._now()))
                    tasks.create_task(self._play(fault, cluster, groups))
            limit_s = options.messages / options.per_s * 2 + 120
            code = await backend.wait(limit_s)
            if code != 0:
                self._outcome.problems.append(f"the backend ended with {code}, see {backend.log_file}")
        except* TimeoutError:
            self._outcome.problems.append("the backend could not send everything")
            await backend.stop()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        self._outcome.load_s = self._now()
        self._outcome.standstills = groups.standstills
        self._outcome.growth = find_growth(sampler.samples)
        _write_samples(sampler, self._directory / "logs" / "samples.tsv")

    async def _play(self, fault: Fault, cluster: Cluster, groups: Groups) -> None:
        self._tell(str(fault))
        if fault.kind == "broker":
            await self._outage(fault, cluster, cluster.kafka.kill, cluster.kafka.start)
            return
        if fault.kind == "database":
            await self._outage(fault, cluster, cluster.postgres.stop, cluster.postgres.start)
            return
        keeper = self._keepers[fault.target]
        role = role_of(fault.target)
        at_s = self._now()
        if fault.kind == "freeze":
            is_played = keeper.process.is_running
        elif fault.kind == "kill":
            is_played = keeper.kill(fault.lasts_s)
        else:
            is_played = keeper.term(fault.lasts_s)
        if not is_played:
            self._outcome.skipped += 1
            return
        if role in ROLES:
            groups.standstills.append(Standstill(role, fault.kind, fault.target, at_s))
        if fault.kind == "freeze":
            await keeper.freeze(fault.lasts_s)

    async def _outage(
        self, fault: Fault, cluster: Cluster, stop: Callable[[], object], start: Callable[[], object]
    ) -> None:
        began_s = self._now()
        await cluster.in_thread(stop)
        await asyncio.sleep(max(0.0, began_s + fault.lasts_s - self._now()))
        await cluster.in_thread(start)
        self._tell(f"{self._now():7.2f} s  {fault.kind} is back")
        self._outcome.outages.append((fault.kind, began_s, self._now()))

    # The calm

    async def _calm_down(self, cluster: Cluster, groups: Groups) -> None:
        outcome, options = self._outcome, self._options
        began_s = self._now()
        self._tell(f"{began_s:7.2f} s  calm: all is sent, all is running")
        await self._until(cluster.are_ready, "all roles to be ready", _READY_S)
        limit_s = 240.0 + options.messages / _SLOWEST_PER_S
        left = await groups.settle(limit_s, _STILL_S, self._tell)
        listen = cluster.parties.get("listen")
        if listen is not None and not left:
            # One may be waiting for its turn to try again: half a minute, and the time that takes.
            await self._until(
                lambda: count_connected(listen.journal) == options.listeners, "devices to be back", 90.0
            )
            # The last acks of the devices make events of their own.
            if (code := await listen.stop(60.0)) != 0:
                outcome.problems.append(f"the devices ended with {code}, see {listen.log_file}")
            left = await groups.settle(limit_s, _STILL_S, self._tell)
        outcome.lag = left
        outcome.settle_s = self._now() - began_s
        async for letter in read_dead_letters(cluster.settings):
            outcome.dead[letter.reason or "unknown"] += 1
        stopped = await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
        assert len(stopped) == len(self._keepers)
        for party in cluster.parties.values():
            with contextlib.suppress(TimeoutError):
                await party.stop()
        for keeper in self._keepers.values():
            outcome.ends += keeper.ends
            outcome.lives += keeper.starts

    async def _judge(self, cluster: Cluster) -> None:
        outcome, options = self._outcome, self._options
        database_url = cluster.settings.database_url
        assert database_url is not None
        facts = await collect(
            cluster.logs, database_url.get_secret_value(), seed=options.seed, listeners=options.listeners
        )
        outcome.verdict = check(facts, judges_push=options.judges_push)
        outcome.reconnects_s = read_reconnects(cluster.logs / "listen.journal")
        outcome.phases = compare_phases(cluster.logs, facts.sent, self._began_ms, outcome.outages)
        losses = [*outcome.verdict.losses, *outcome.verdict.missed_pushes]
        if losses:
            journals = sorted(cluster.logs.glob("*.journal"))
            lives: dict[str, Any] = await explain.explain(losses, cluster.settings, journals)
            path = cluster.logs / "losses.json"
            explain.write(lives, path)
            outcome.explained = str(path)


def _pids(cluster: Cluster) -> dict[str, int]:
    return {name: process.pid for name, process in cluster.roles.items() if process.is_running}


def _write_samples(sampler: Sampler, path: Path) -> None:
    lines = ["at_s\tname\tpid\trss_kib\tdescriptors\tthreads\ttasks\toldest_s\n"]
    lines += [
        f"{one.at_s}\t{one.name}\t{one.life}\t{one.rss_kib}\t{one.descriptors}\t{one.threads}\t{one.tasks}\t{one.oldest_s:.1f}\n"
        for one in sampler.samples
    ]
    path.write_text("".join(lines))
