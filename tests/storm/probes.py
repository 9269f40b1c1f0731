"""`python -m tests.storm.probes`: what probes see while something is hung, away, or drained.

Pods of every role run beside Apache Kafka and PostgreSQL with a little to do, and are probed as the kubelet
would. Exit code 1 where a probe says another thing than it should; the directory that it then names holds the
logs.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.storm.cluster import Cluster
from tests.storm.deployment import Deployment, Pod
from tests.storm.manifests import read_rollout
from tests.storm.rolling import ROLES
from tests.storm.trial import READY_S, Tell, Trial, add_arguments, run_trial, settings_of

#: Fewer than there are pods of a role, so that one of them gets no partition.
_PARTITIONS: Final = 2
_PODS: Final = 3
#: Whether a role stays ready without it (docs/reference/probes.md).
_READY_WITHOUT: Final[Mapping[str, Mapping[str, bool]]] = {
    "database": {"deliver": True, "persist": False, "ws": True, "api": True, "sweep": True},
    "broker": {"deliver": True, "persist": True, "ws": True, "api": False, "sweep": True},
}
_NODES: Final = ("a", "b")
#: Enough that every pod has something to write; nobody listens.
_PER_S: Final = 20.0
_USERS: Final = 50
_LONGEST_S: Final = 1200.0


class Probes:
    """Runs once."""

    def __init__(self, arguments: argparse.Namespace, directory: Path, tell: Tell) -> None:
        self._away_s: float = arguments.away
        self._only: Sequence[str] = arguments.only or tuple(self.parts)
        self._seed: int = arguments.seed
        self._extra_env = settings_of(arguments)
        self._directory = directory
        self._tell = tell
        self._deployments: dict[str, Deployment] = {}
        self._trial: Trial

    @property
    def parts(self) -> dict[str, Callable[[], Any]]:
        """The trials by name, in the order in which they are run."""
        return {
            "surge": self._surge,
            "freeze": self._freeze,
            "database": self._without_database,
            "broker": self._without_broker,
            "node": self._drain_node,
        }

    async def run(self) -> Trial:
        """Start everything, and try one thing after the other."""
        partitions = {"NOTIFYD_TOPIC_PARTITIONS": str(_PARTITIONS)}
        env = {"NOTIFYD_SETTINGS_STRICT": "false", **partitions, **self._extra_env}
        async with Cluster(self._directory, {}, env, partitions=_PARTITIONS) as cluster:
            trial = self._trial = Trial(cluster, self._seed, _USERS, self._tell)
            backend = trial.send(int(_PER_S * _LONGEST_S), _PER_S)
            for role in ROLES:
                deployment = self._deployments[role] = Deployment(
                    cluster, read_rollout(role), 2, now=trial.now, told=self._tell, changed=lambda: None
                )
                for number in range(2):
                    await deployment.create(node=_NODES[number % 2])
            async with asyncio.timeout(READY_S):
                await self._until_ready()
            for name in self._only:
                self._tell(f"{trial.now():7.2f} s  {name}")
                await self.parts[name]()
            await backend.stop()
            await asyncio.gather(*(one.stop() for one in self._deployments.values()))
            trial.found.problems += [text for one in self._deployments.values() for text in one.problems]
        return trial

    async def _until_ready(self) -> None:
        await asyncio.gather(*(one.until_ready() for one in self._deployments.values()))

    def _expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            self._trial.found.problems.append(what)

    # The trials

    async def _surge(self) -> None:
        """One more pod of each role than there are partitions becomes ready."""
        for role in ("deliver", "persist"):
            deployment = self._deployments[role]
            began_s = self._trial.now()
            for number in range(_PODS - 2):
                await deployment.create(node=_NODES[number % 2])
            await self._trial.until(
                lambda one=deployment: len(one.ready) == _PODS, f"{role} to be ready", READY_S
            )
            self._trial.found.figures[f"{role} without a partition ready after s"] = round(
                self._trial.now() - began_s, 1
            )
            await deployment.scale(2)

    async def _freeze(self) -> None:
        """A process that stands still fails its liveness probe within its bound; after a short pause not."""
        deployment = self._deployments["deliver"]
        deployment.may_be_unready = True
        probe = deployment.rollout.liveness
        bound_s = probe.failures * (probe.period_s + probe.timeout_s)
        pod = deployment.pods[0]
        pause_s = (probe.failures - 2) * probe.period_s
        failed = deployment.failed_liveness
        await self._stand_still(pod, lambda: False, pause_s)
        await asyncio.sleep(probe.period_s)
        self._expect(not failed, f"liveness failed after a pause of {pause_s:g} s")
        took_s = await self._stand_still(pod, lambda: bool(failed), bound_s + probe.period_s)
        self._trial.found.figures["liveness failed after s"] = round(took_s, 1)
        least_s = (probe.failures - 1) * probe.period_s
        self._expect(
            bool(failed) and least_s <= took_s <= bound_s + probe.timeout_s,
            f"liveness failed {took_s:.1f} s after a process stood still, not {least_s:g} to {bound_s:g}",
        )
        failed.clear()
        await self._until_ready()
        deployment.may_be_unready = False

    async def _stand_still(self, pod: Pod, is_enough: Callable[[], bool], limit_s: float) -> float:
        clock = self._trial.now
        began_s = clock()
        pod.process.signal(signal.SIGSTOP)
        try:
            while not is_enough() and clock() < began_s + limit_s:  # noqa: ASYNC110 - a task notes it
                await asyncio.sleep(0.1)
        finally:
            pod.process.signal(signal.SIGCONT)
        return clock() - began_s

    async def _without_database(self) -> None:
        postgres = self._trial.cluster.postgres
        await self._without("database", postgres.stop, postgres.start)

    async def _without_broker(self) -> None:
        kafka = self._trial.cluster.kafka
        await self._without("broker", kafka.kill, kafka.start)

    async def _without(self, what: str, stop: Callable[[], Any], start: Callable[[], Any]) -> None:
        """Every pod stays alive; ready stay those that can do without."""
        cluster = self._trial.cluster
        for deployment in self._deployments.values():
            deployment.may_be_unready = True
        await cluster.in_thread(stop)
        await asyncio.sleep(self._away_s)
        found = {role: len(one.ready) for role, one in self._deployments.items()}
        self._trial.found.figures[f"ready without {what}"] = found
        for role, number in found.items():
            self._expect(
                number == (2 if _READY_WITHOUT[what][role] else 0),
                f"{number} of 2 {role} are ready after {self._away_s:g} s without the {what}",
            )
        await cluster.in_thread(start)
        began_s = self._trial.now()
        async with asyncio.timeout(READY_S):
            await self._until_ready()
        self._trial.found.figures[f"ready again after {what} came back s"] = round(
            self._trial.now() - began_s, 1
        )
        for deployment in self._deployments.values():
            deployment.may_be_unready = False
            failed = deployment.failed_liveness
            self._expect(not failed, f"{failed} failed their liveness probes without the {what}")

    async def _drain_node(self) -> None:
        """Evict all pods of a node, as disruption budgets allow; no role is ever without a ready pod."""
        await asyncio.gather(*(one.evict(_NODES[0], _NODES[1]) for one in self._deployments.values()))
        fewest = {role: one.fewest_ready for role, one in self._deployments.items()}
        self._trial.found.figures["fewest ready while a node was drained"] = fewest
        for role, number in fewest.items():
            self._expect(number > 0, f"no pod of {role} was ready while a node was drained")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storm.probes", description=__doc__)
    add = parser.add_argument
    add("--away", type=float, default=45.0, help="seconds that broker and database are away (45)")
    add("--only", action="append", help="this trial: surge, freeze, database, broker, node")
    add_arguments(parser)
    return parser


def main() -> int:
    """Run the trials that the arguments ask for."""
    arguments = _parser().parse_args()
    return run_trial("probes", arguments, lambda directory, tell: Probes(arguments, directory, tell).run())


if __name__ == "__main__":
    sys.exit(main())
