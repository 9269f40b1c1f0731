"""`python -m tests.storm.rolling`: every process is replaced under load, as the manifests in k8s/ say.

Devices and HTTP clients come through a balancer that obeys readiness. No message may be lost, no client may
be refused, cut off or answered with 5xx, and push may be three times as slow as before at the most.
Exit code 1 otherwise; the directory that it then names holds the logs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from notifyd.dev.child import free_port
from tests.storm.balancer import BalancerConfig
from tests.storm.call import CallConfig
from tests.storm.cluster import PUBLIC_ROLES, Cluster
from tests.storm.deployment import Deployment
from tests.storm.devices import count_users
from tests.storm.load import LoadMeter
from tests.storm.manifests import read_rollout
from tests.storm.receive import ReceiverConfig
from tests.storm.rolling_check import Roll, RollTrial
from tests.storm.trial import READY_S, Tell, Trial, add_arguments, run_trial, settings_of

#: From all being connected to what is measured as "before", and that stretch itself.
_WARM_UP_S: Final = 10.0
_BEFORE_S: Final = 20.0
_AFTER_S: Final = 10.0
#: What a change of endpoints takes to reach every node: an API server, a watch, a proxy's rules.
_PROPAGATION_S: Final = 1.0
_ROLL_LIMIT_S: Final = 240.0
_ROOT: Final = Path(__file__).resolve().parents[2]
ROLES: Final = ("sweep", "persist", "deliver", "api", "ws")


@dataclass(frozen=True, slots=True)
class Options:
    """What to roll. `per_s` messages a second, of which `http_share` come by HTTP."""

    devices: int
    per_s: float
    http_share: float
    replicas: Mapping[str, int]
    seed: int
    parties: int
    roles: Sequence[str]
    is_together: bool
    flaky: float
    extra_env: Mapping[str, str] = field(default_factory=dict)
    #: Where the code of the release before is, if the roll is to come from that.
    before: Path | None = None


class Rolling:
    """Runs once."""

    def __init__(self, options: Options, directory: Path, tell: Tell) -> None:
        self._options = options
        self._directory = directory
        self._tell = tell
        self._deployments: dict[str, Deployment] = {}
        self._endpoints = directory / "endpoints.json"
        self._ports = {role: free_port() for role in PUBLIC_ROLES}
        self._writes: set[asyncio.Task[None]] = set()

    async def run(self) -> Trial:
        """Load, roll, calm down, and judge."""
        options = self._options
        # As the manifests have it: a release must live with the settings of the next one.
        env = {"NOTIFYD_SETTINGS_STRICT": "false", **options.extra_env}
        old = {} if options.before is None else {"PYTHONPATH": str(options.before)}
        async with Cluster(self._directory, {}, env, first_env=old) as cluster:
            trial = RollTrial(cluster, options.seed, options.devices, self._tell)
            for role in ROLES:
                self._deployments[role] = Deployment(
                    cluster,
                    read_rollout(role),
                    options.replicas[role],
                    now=trial.now,
                    told=self._tell,
                    changed=self._on_change,
                )
            config = BalancerConfig(self._ports, str(self._endpoints))
            cluster.add_party("balancer", config)
            for role, deployment in self._deployments.items():
                for _ in range(options.replicas[role]):
                    await deployment.create(env=old)
            async with asyncio.timeout(READY_S):
                await asyncio.gather(*(one.until_ready() for one in self._deployments.values()))
            cluster.add_party("receive", ReceiverConfig(cluster.hook_port, options.flaky))
            await trial.connect(options.parties, urls=[f"ws://127.0.0.1:{self._ports['ws']}/v1/push"])
            await self._under_load(trial)
            await asyncio.gather(*(one.stop() for one in self._deployments.values()))
            for one in self._deployments.values():
                trial.found.problems += one.problems
                trial.found.problems += [f"{name} failed its liveness probe" for name in one.failed_liveness]
        return trial

    async def _under_load(self, trial: RollTrial) -> None:
        load = LoadMeter(trial.now)
        metering = asyncio.create_task(load.run())
        backend, caller = self._send(trial)
        try:
            await asyncio.sleep(_WARM_UP_S + _BEFORE_S)
            began_s = trial.now()
            trial.rolls.append(Roll("before", _WARM_UP_S, began_s))
            if self._options.before is not None:
                await trial.cluster.prepare()
                self._tell(f"{trial.now():7.2f} s  topics and schema are those of the new release")
                trial.rolls.append(Roll("prepare", began_s, trial.now()))
            if self._options.is_together:
                await self._roll(trial, self._options.roles)
            else:
                for role in self._options.roles:
                    await self._roll(trial, [role])
            trial.rolls.append(Roll("roll", began_s, trial.now()))
            await asyncio.sleep(_AFTER_S)
            trial.rolls.append(Roll("after", trial.now() - _AFTER_S, trial.now()))
            try:
                await caller.stop(60.0)
            except TimeoutError:
                trial.found.problems.append(f"HTTP clients wait for answers still, see {caller.log_file}")
        finally:
            metering.cancel()
            await asyncio.gather(metering, return_exceptions=True)
        await backend.stop()
        trial.load = load
        trial.gone = [pod for one in self._deployments.values() for pod in one.gone]
        trial.fewest_ready = {role: one.fewest_ready for role, one in self._deployments.items()}
        await trial.conclude(backend, 60.0)

    def _send(self, trial: RollTrial) -> Any:
        options = self._options
        most_s = _WARM_UP_S + _BEFORE_S + _AFTER_S + _ROLL_LIMIT_S * len(ROLES)
        http_per_s = options.per_s * options.http_share
        self._tell(f"begins: {options.per_s:g} messages/s to {options.devices} devices and webhooks")
        backend = trial.send(int((options.per_s - http_per_s) * most_s), options.per_s - http_per_s)
        trial.began_ms = time.time() * 1000
        config = CallConfig(
            options.seed,
            int(http_per_s * most_s),
            http_per_s,
            count_users(options.devices),
            trial.cluster.hook_port,
            f"http://127.0.0.1:{self._ports['api']}",
            trial.plan,
        )
        return backend, trial.cluster.add_party("call", config)

    async def _roll(self, trial: RollTrial, roles: Sequence[str]) -> None:
        began_s = trial.now()
        self._tell(f"{began_s:7.2f} s  roll of {', '.join(roles)}")
        try:
            async with asyncio.timeout(_ROLL_LIMIT_S):
                await asyncio.gather(*(self._deployments[role].roll() for role in roles))
        except TimeoutError:
            trial.found.problems.append(f"{', '.join(roles)} not rolled within {_ROLL_LIMIT_S:g} s")
        if len(roles) == 1:
            trial.rolls.append(Roll(roles[0], began_s, trial.now()))

    def _on_change(self) -> None:
        """Let the balancer know later what is so now."""
        told = {role: self._deployments[role].endpoints for role in PUBLIC_ROLES}
        write = asyncio.create_task(self._propagate(json.dumps(told)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _propagate(self, told: str) -> None:
        await asyncio.sleep(_PROPAGATION_S)
        fresh = self._endpoints.with_suffix(".new")
        fresh.write_text(told)
        fresh.replace(self._endpoints)


def check_out(revision: str) -> Path:
    """Return a folder with the package as it was at a revision; "previous": before the newest migration."""
    if revision == "previous":
        newest = max(_ROOT.glob("notifyd/store/migrations/*.sql"))
        log = ("log", "--diff-filter=A", "--format=%H", "-1", "--", str(newest.relative_to(_ROOT)))
        revision = f"{_git(*log).decode().strip()}^"
    folder = Path(tempfile.mkdtemp(prefix="notifyd-before-"))
    folder.chmod(0o755)
    with tarfile.open(fileobj=io.BytesIO(_git("archive", revision, "notifyd"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(*args: str) -> bytes:
    return subprocess.run(["git", *args], cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout


def _options(arguments: argparse.Namespace) -> Options:
    replicas = dict.fromkeys(ROLES, arguments.replicas)
    for pair in arguments.role:
        role, _, count = pair.partition("=")
        replicas[role] = int(count)
    return Options(
        devices=arguments.devices,
        per_s=arguments.rate,
        http_share=arguments.http_share,
        replicas=replicas,
        seed=arguments.seed,
        parties=arguments.parties,
        roles=[role for role in ROLES if role in (arguments.only or ROLES)],
        is_together=arguments.together,
        flaky=arguments.flaky,
        extra_env=settings_of(arguments),
        before=check_out(arguments.upgrade) if arguments.upgrade else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storm.rolling", description=__doc__)
    add = parser.add_argument
    add("--devices", type=int, default=1000, help="how many (1000)")
    add("--rate", type=float, default=300.0, help="messages a second (300)")
    add("--http-share", type=float, default=0.15, help="share of messages that come by HTTP (0.15)")
    add("--replicas", type=int, default=2, help="processes of each role (2)")
    add("--role", action="append", default=[], metavar="ROLE=N", help="processes of this role")
    add("--together", action="store_true", help="roll all roles at once, as one `kubectl apply` does")
    add("--only", action="append", choices=ROLES, help="roll this role, not all of them")
    add(
        "--upgrade",
        nargs="?",
        const="previous",
        metavar="REVISION",
        help="roll from the code and the schema of this revision (that before the newest migration)",
    )
    add("--flaky", type=float, default=0.0, help="share of first webhook calls that go wrong (0)")
    add_arguments(parser)
    return parser


def main() -> int:
    """Roll what the arguments ask for."""
    arguments = _parser().parse_args()
    options = _options(arguments)
    try:
        return run_trial(
            "rolling", arguments, lambda directory, tell: Rolling(options, directory, tell).run()
        )
    except KeyboardInterrupt:
        return 130
    finally:
        if options.before is not None:
            shutil.rmtree(options.before, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
