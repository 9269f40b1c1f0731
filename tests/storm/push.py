"""`python -m tests.storm.push`: devices under load while networks, ws processes and the database fail.

Every device must have every message addressed to its user, none may be given out twice, and every ack
that was confirmed must be a row. Exit code 1 otherwise; the directory that it then names holds the logs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.storm.cluster import Cluster
from tests.storm.devices import count_users
from tests.storm.keeper import End, Keeper
from tests.storm.messages import PLANS
from tests.storm.samples import Sample, Sampler
from tests.storm.schedule import Fault, draw_schedule
from tests.storm.trial import READY_S, Tell, Trial, add_arguments, run_trial, settings_of

#: When the database goes, and when all ws processes are rolled, as shares of the storm.
_DATABASE_AT: Final = 0.35
_ROLL_AT: Final = (0.7, 0.2)
_HEARTBEAT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What storm to raise. A device has a trouble every `trouble_s` on the average."""

    devices: int
    ws: int
    storm_s: float
    per_s: float
    seed: int
    every_s: tuple[float, float]
    trouble_s: float
    database_s: float
    window_s: float
    parties: int
    extra_env: dict[str, str]


class PushStorm:
    """Runs once."""

    def __init__(self, options: Options, directory: Path, tell: Tell) -> None:
        self._options = options
        self._directory = directory
        self._tell = tell
        self._keepers: dict[str, Keeper] = {}
        self._outage: tuple[float, float] | None = None

    def schedule(self) -> tuple[Fault, ...]:
        """Return the faults of ws processes, drawn from the seed: kills and SIGTERMs, and one roll of all."""
        options = self._options
        names = [f"ws-{number}" for number in range(options.ws)]
        faults = draw_schedule(
            options.seed, options.storm_s, names, every_s=options.every_s, kinds=("kill", "term")
        )
        start, length = (share * options.storm_s for share in _ROLL_AT)
        storm = [one for one in faults if not start <= one.at_s < start + length]
        roll = [
            Fault(round(start + length * number / options.ws, 2), "term", name, 0.5)
            for number, name in enumerate(names)
        ]
        return tuple(sorted([*storm, *roll], key=lambda one: one.at_s))

    async def run(self) -> Trial:
        """Raise it, let it calm down, and judge."""
        options = self._options
        env = {
            "NOTIFYD_WS_WINDOW_S": str(options.window_s),
            "NOTIFYD_WS_HEARTBEAT_S": str(_HEARTBEAT_S),
            **options.extra_env,
        }
        async with Cluster(self._directory, {"persist": 1, "ws": options.ws}, env) as cluster:
            trial = Trial(cluster, options.seed, options.devices, self._tell)
            self._keepers = {name: Keeper(one, trial.now) for name, one in cluster.roles.items()}
            for keeper in self._keepers.values():
                keeper.start()
            await trial.until(cluster.are_ready, "all roles to be ready", READY_S)
            await trial.connect(
                options.parties,
                troubles_per_s=options.devices / options.trouble_s / options.parties,
                troubles_s=options.storm_s,
            )
            sampler = await self._rage(trial)
            await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
            ends = [end for keeper in self._keepers.values() for end in keeper.ends]
            self._tell_processes(trial, ends, sampler.samples)
        return trial

    async def _rage(self, trial: Trial) -> Sampler:
        options, cluster = self._options, trial.cluster
        users = count_users(options.devices)
        count = int(options.per_s * options.storm_s)
        per_message = sum(len(PLANS["push"](options.seed, one, users).users) for one in range(500)) / 500
        self._tell(f"begins: {count} messages at {options.per_s:g}/s, to {per_message:.1f} users each")
        backend = trial.send(count, options.per_s)
        sampler = Sampler(
            lambda: {name: one.pid for name, one in cluster.roles.items() if one.is_running},
            cluster.admin_ports,
            trial.now,
            every_s=max(1.0, options.storm_s / 100),
        )
        sampling = asyncio.create_task(sampler.run())
        try:
            async with asyncio.TaskGroup() as tasks:
                if options.database_s:
                    tasks.create_task(self._stop_database(trial))
                for fault in self.schedule():
                    await asyncio.sleep(max(0.0, fault.at_s - trial.now()))
                    self._tell(str(fault))
                    keeper = self._keepers[fault.target]
                    (keeper.kill if fault.kind == "kill" else keeper.term)(fault.lasts_s)
            await trial.conclude(backend, options.storm_s + 120)
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        return sampler

    async def _stop_database(self, trial: Trial) -> None:
        options, cluster = self._options, trial.cluster
        await asyncio.sleep(options.storm_s * _DATABASE_AT)
        self._tell(f"{trial.now():7.2f} s  database    stopped for {options.database_s:g} s")
        began_s = trial.now()
        await cluster.in_thread(cluster.postgres.stop)
        await asyncio.sleep(max(0.0, began_s + options.database_s - trial.now()))
        await cluster.in_thread(cluster.postgres.start)
        self._outage = (began_s, trial.now())
        self._tell(f"{trial.now():7.2f} s  database    is back")

    def _tell_processes(self, trial: Trial, ends: list[End], samples: list[Sample]) -> None:
        found = trial.found
        for end in ends:
            if not end.is_good:
                found.problems.append(
                    f"{end.name} ended with {end.code} at {end.at_s:.1f} s\n{end.last_words}"
                )
        found.figures["faults"] = dict(Counter(end.cause or "by itself" for end in ends))
        found.figures["database_away_s"] = self._outage
        ws = [one for one in samples if one.name.startswith("ws")]
        found.figures["ws_memory_mib"] = _most(ws, "rss_kib", 1024)
        found.figures["ws_descriptors"] = _most(ws, "descriptors", 1)
        found.figures["ws_lag_s"] = max((one.lag_s for one in ws), default=-1.0)


def _most(samples: list[Sample], measure: str, unit: int) -> dict[str, Any]:
    """Return the most of each process over all its lives."""
    most: dict[str, int] = {}
    for one in samples:
        most[one.name] = max(most.get(one.name, 0), getattr(one, measure) // unit)
    return most


def _options(arguments: argparse.Namespace) -> Options:
    least, _, most = arguments.every.partition("-")
    return Options(
        devices=arguments.devices,
        ws=arguments.ws,
        storm_s=arguments.minutes * 60,
        per_s=arguments.rate,
        seed=arguments.seed,
        every_s=(float(least), float(most or least)),
        trouble_s=arguments.trouble,
        database_s=arguments.database,
        window_s=arguments.window,
        parties=arguments.parties,
        extra_env=settings_of(arguments),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storm.push", description=__doc__)
    add = parser.add_argument
    add("--devices", type=int, default=2000, help="how many (2000)")
    add("--ws", type=int, default=3, help="ws processes (3)")
    add("--minutes", type=float, default=5.0, help="how long (5)")
    add("--rate", type=float, default=200.0, help="messages a second (200)")
    add("--every", default="12-24", help="seconds between two faults of ws processes (12-24)")
    add("--trouble", type=float, default=60.0, help="seconds between two troubles of a device (60)")
    add("--database", type=float, default=60.0, help="seconds that the database is away (60; 0: never)")
    add("--window", type=float, default=60.0, help="replay window of ws, seconds (60)")
    add_arguments(parser)
    return parser


def main() -> int:
    """Raise the storm that the arguments ask for."""
    arguments = _parser().parse_args()
    options = _options(arguments)
    return run_trial("push", arguments, lambda directory, tell: PushStorm(options, directory, tell).run())


if __name__ == "__main__":
    sys.exit(main())
