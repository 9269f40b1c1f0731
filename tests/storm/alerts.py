"""`python -m tests.storm.alerts`: real faults, one by one, until their alerts fire in a real Prometheus.

Roles, Apache Kafka and PostgreSQL are processes that run under a small load; Prometheus scrapes them each
second and has the rules of `k8s/components/monitoring`, in which each minute is two seconds. Exit code 1
where an alert does not fire on its fault, or one fires before the first. Needs `prometheus` on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg2
import yaml

from notifyd.client import PushClient
from notifyd.dev.child import free_port, spawn
from notifyd.producer import Notifier
from notifyd.push.auth import issue_token
from tests.fixtures.webhooks import WebhookReceiver
from tests.storm.cluster import Cluster

RULES: Final = Path(__file__).resolve().parents[2] / "k8s/components/monitoring/rules"

#: Seconds that a minute of a rule lasts here.
_MINUTE_S: Final = 2
_UNITS: Final = {"s": 1 / 60, "m": 1, "h": 60, "d": 1440}
#: Thresholds that are times themselves, made to fit.
_THRESHOLDS: Final = {
    "NotifydLagging": ("> 60", "> 3"),
    "NotifydUndeliveredForLong": ("> 21600", "> 20"),
    "NotifydSweepBlind": ("> 300", "> 10"),
}
_CONNECTIONS: Final = 10
_LIMIT_S: Final = 90.0
_READY_S: Final = 90.0


def scaled_rules(path: Path) -> dict[str, Any]:
    """Read a file of rules, each minute in it shortened."""
    groups: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]

    def short(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _UNITS[found[3]] * _MINUTE_S
        # What fails each ten seconds (a commit, a statement) must be in every window.
        return f"{found[1]}{max(25 if found[1] == '[' else 4, round(seconds))}s"

    for group in groups["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"(\[|offset )(\d+)([smhd])", short, rule["expr"])
            if "for" in rule:
                rule["for"] = re.sub(r"()(\d+)([smhd])", short, rule["for"])
            old, new = _THRESHOLDS.get(rule.get("alert", ""), ("", ""))
            if old:
                assert old in rule["expr"], rule["alert"]
                rule["expr"] = rule["expr"].replace(old, new)
    return groups


class Prometheus:
    """A Prometheus with our rules, that scrapes these ports."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.port = free_port()
        self.fired: dict[str, float] = {}
        self.now: set[str] = set()
        self.old: set[str] = set()
        folder.mkdir()
        for path in RULES.glob("*.yaml"):
            (folder / path.name).write_text(yaml.safe_dump(scaled_rules(path)))
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "storm", "pod": name}}
            for name, port in ports.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml", "recording.yaml"],
            "scrape_configs": [{"job_name": "notifyd", "static_configs": targets}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process = spawn(
            [
                *(
                    "prometheus",
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                ),
                *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"),
            ],
            log_file=folder / "prometheus.log",
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Note which alerts fire now, and since when each has been seen to."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(f"http://127.0.0.1:{self.port}/api/v1/alerts") as answer:
                alerts = (await answer.json())["data"]["alerts"]
            self.now = {_name_of(one["labels"]) for one in alerts if one["state"] == "firing"}
            self.old &= self.now
            for name in self.now - self.old:
                self.fired.setdefault(name, time.monotonic())


def _name_of(labels: dict[str, str]) -> str:
    what = labels.get("role") or labels.get("objective") or labels.get("channel") or labels.get("reason")
    return f"{labels['alertname']}({what})" if what else labels["alertname"]


@dataclass
class Trial:
    """A cluster under load, its Prometheus, and what was wrong."""

    cluster: Cluster
    prometheus: Prometheus
    receiver: WebhookReceiver
    session: aiohttp.ClientSession
    problems: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def fault(self, what: str, *expected: str, limit_s: float = _LIMIT_S) -> AsyncIterator[None]:
        """Wait within the block's fault, once it is made, until all of `expected` fired."""
        began = time.monotonic()
        # What another fault left on proves nothing here.
        self.prometheus.old, self.prometheus.fired = set(self.prometheus.now), {}
        yield
        while not self._has_fired(expected) and time.monotonic() - began < limit_s:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        fired = sorted(self.prometheus.fired.items(), key=lambda one: one[1])
        told = ", ".join(f"{name} {at - began:.0f} s" for name, at in fired)
        _tell(f"{what}: {told or 'nothing fired'}")
        for name in expected:
            if not self._has_fired((name,)):
                self.problems.append(f"{name} did not fire within {limit_s:g} s of: {what}")

    def _has_fired(self, expected: tuple[str, ...]) -> bool:
        # A name alone stands for any of its labels.
        names = {*self.prometheus.fired, *(name.partition("(")[0] for name in self.prometheus.fired)}
        return set(expected) <= names

    async def watch(self) -> None:
        """Look at the alerts until cancelled."""
        while True:
            await self.prometheus.look(self.session)
            await asyncio.sleep(0.5)

    async def load(self) -> None:
        """Send some messages in each second until cancelled: pushes, and webhooks that arrive."""
        url = self.receiver.url("/ok")
        async with Notifier(self.cluster.settings, sender="shop") as notifier:
            while True:
                messages = [
                    {"to": ["user-0"], "title": "Hi"},
                    {"to": ["user-0"], "title": "Hi", "channels": ["webhook"],
                     "contacts": {"user-0": {"webhook": [{"url": url}]}}},
                ] * 5  # fmt: skip
                await notifier.send_many(messages, timeout_s=5)
                await asyncio.sleep(0.5)

    async def send(self, sender: str, url: str, count: int) -> None:
        """Send webhooks to a URL."""
        async with Notifier(self.cluster.settings, sender=sender) as notifier:
            await notifier.send_many(
                {"to": ["bob"], "title": "Hi", "channels": ["webhook"],
                 "contacts": {"bob": {"webhook": [{"url": url}]}}}
                for _ in range(count)
            )  # fmt: skip

    async def post(self) -> None:
        """Ask the API for ever, whatever it answers."""
        token = issue_token(self.cluster.settings, "shop", ["notify:send"], 3600)
        url = f"http://127.0.0.1:{self.cluster.http_ports['api-0']}/v1/messages"
        body = {"toUserIds": ["user-0"], "content": {"title": "Hi"}}
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                headers = {"Authorization": f"Bearer {token}"}
                async with self.session.post(url, json=body, headers=headers) as answer:
                    await answer.read()
            await asyncio.sleep(0.2)

    async def all_ready(self) -> None:
        """Return once every role is ready again."""
        deadline = time.monotonic() + _READY_S
        while not await self.cluster.are_ready():
            if time.monotonic() > deadline:
                waits = {name: process.get("/readyz")[1] for name, process in self.cluster.roles.items()}
                raise TimeoutError(f"not ready again within {_READY_S:g} s: {waits}")
            await asyncio.sleep(0.5)

    async def quiet(self, *names: str) -> None:
        """Return once none of these fires any more."""
        async with asyncio.timeout(_LIMIT_S):
            while {name.partition("(")[0] for name in self.prometheus.now} & set(names):  # noqa: ASYNC110
                await asyncio.sleep(0.5)


async def _listen(trial: Trial, number: int) -> None:
    user = f"user-{number}"
    token = issue_token(trial.cluster.settings, user, [], 3600)
    async with PushClient(trial.cluster.push_urls[0], token) as client:
        async for _ in client:
            pass


@contextlib.asynccontextmanager
async def _beside(*works: Awaitable[None]) -> AsyncIterator[None]:
    """Run these until the block ends; a failure of theirs is none of the trial's."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _calm(trial: Trial) -> None:
    await asyncio.sleep(20)
    # The windows of the budgets are not filled yet, but nothing else may be on.
    if trial.prometheus.now:
        trial.problems.append(f"these fire without a fault: {', '.join(sorted(trial.prometheus.now))}")
    _tell(f"calm: {', '.join(sorted(trial.prometheus.now)) or 'nothing fires'}")


async def _stalls(trial: Trial) -> None:
    ws = trial.cluster.roles["ws-0"]
    async with trial.fault("ws stands still for 2.5 s", "NotifydEventLoopStalls"):
        ws.signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        ws.signal(signal.SIGCONT)


async def _few_descriptors(trial: Trial) -> None:
    pid = trial.cluster.roles["deliver-0"].pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    async with trial.fault("deliver may open hardly more than it has", "NotifydDescriptorsShort"):
        count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count + 4, before[1]))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def _full(trial: Trial) -> None:
    devices = (_listen(trial, number) for number in range(1, _CONNECTIONS))
    what = f"all {_CONNECTIONS} connections are taken"
    async with _beside(*devices), trial.fault(what, "NotifydPushFull"):
        pass


async def _slow_reader(trial: Trial) -> None:
    token = issue_token(trial.cluster.settings, "slow", [], 3600)
    async with trial.session.ws_connect(trial.cluster.push_urls[0], protocols=["notifyd.v1"]) as socket:
        await socket.send_json({"op": "hello", "token": token})
        await socket.receive_json()
        transport = socket._response.connection.transport
        async with trial.fault("a client stops reading, and much is for it", "NotifydReadersSlow"):
            transport.pause_reading()
            async with Notifier(trial.cluster.settings, sender="shop") as notifier:
                for _ in range(60):
                    await notifier.send(to=["slow"], title="Hi", body="x" * 200_000)
        transport.abort()


async def _refusals(trial: Trial) -> None:
    wanted = ("NotifydSenderPaused(webhook)", "NotifydDeadLetters(http_400)")
    async with trial.fault("a receiver refuses 200 webhooks of a sender", *wanted):
        await trial.send("crm", trial.receiver.script("/refused", 400), 200)


async def _host_down(trial: Trial) -> None:
    wanted = ("NotifydDestinationsDown(webhook)", "NotifydUndeliveredForLong")
    # Another name than the one that receives: a host counts by its name.
    async with trial.fault("nobody listens at a host for long", *wanted, limit_s=200):
        await trial.send("billing", f"http://localhost:{free_port()}/", 30)


async def _database_away(trial: Trial) -> None:
    pid = trial.cluster.postgres.pid
    assert pid is not None
    wanted = ("NotifydDatabaseUnreachable", "NotifydLagging(persist)", "NotifydSweepLeaderless",
              "NotifydNotReady(persist)")  # fmt: skip
    async with trial.fault("the database is gone", *wanted):
        await trial.cluster.in_thread(trial.cluster.postgres.stop)
    budgets = ("NotifydBudgetBurnsFast(ingest_to_stored)", "NotifydBudgetBurnsSlowly(ingest_to_stored)")
    async with trial.fault("what was late because of it is stored", *budgets):
        await trial.cluster.in_thread(trial.cluster.postgres.start)
    await trial.all_ready()


async def _locked(trial: Trial) -> None:
    url = trial.cluster.settings.database_url
    assert url is not None
    with psycopg2.connect(url.get_secret_value()) as connection, connection.cursor() as cursor:
        async with trial.fault("somebody locks a table again and again", "NotifydPoolExhausted"):
            for _ in range(10):
                # For less than a statement waits for a lock: so they are slow, and do not fail.
                await asyncio.to_thread(cursor.execute, "LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(6)
                connection.rollback()
    await trial.all_ready()


async def _no_persist(trial: Trial) -> None:
    await trial.quiet("NotifydSweepBlind", "NotifydRoleMissing")
    persist = trial.cluster.roles["persist-0"]
    async with trial.fault("persist is killed", "NotifydRoleMissing(persist)", "NotifydSweepBlind"):
        persist.kill()
    persist.start()
    await trial.all_ready()


async def _broker_hangs(trial: Trial) -> None:
    wanted = ("NotifydCannotProduce", "NotifydApiFails", "NotifydCommitsFail")
    async with _beside(trial.post()), trial.fault("the broker hangs", *wanted):
        trial.cluster.kafka.pause()
    trial.cluster.kafka.resume()
    await trial.all_ready()


_FAULTS: Final[dict[str, Callable[[Trial], Awaitable[None]]]] = {
    "calm": _calm,
    "stalls": _stalls,
    "descriptors": _few_descriptors,
    "full": _full,
    "slow": _slow_reader,
    "refusals": _refusals,
    "host": _host_down,
    "database": _database_away,
    "locked": _locked,
    "persist": _no_persist,
    "broker": _broker_hangs,
}


def _tell(line: str) -> None:
    print(line, flush=True)


async def run(folder: Path, faults: list[str], hold_s: float) -> list[str]:
    """Make these faults; return what was wrong."""
    extra = {
        "NOTIFYD_WS_MAX_CONNECTIONS": str(_CONNECTIONS),
        "NOTIFYD_WS_MAX_CONNECTIONS_PER_ADDRESS": "0",
        "NOTIFYD_API_CONFIRM_TIMEOUT_S": "1",
        "NOTIFYD_DATABASE_POOL_SIZE": "2",
    }
    counts = {"api": 1, "deliver": 1, "persist": 1, "sweep": 1, "ws": 1}
    async with (
        Cluster(folder, counts, extra) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session,
    ):
        for process in cluster.roles.values():
            process.start()
        with WebhookReceiver() as receiver:
            prometheus = Prometheus(folder / "prometheus", cluster.admin_ports)
            trial = Trial(cluster, prometheus, receiver, session)
            try:
                await trial.all_ready()
                async with _beside(trial.watch(), trial.load(), _listen(trial, 0)):
                    for name in faults:
                        await _FAULTS[name](trial)
                    if hold_s:
                        _tell(f"Prometheus: http://127.0.0.1:{prometheus.port} for {hold_s:g} s")
                        await asyncio.sleep(hold_s)
            finally:
                prometheus.close()
        return trial.problems


def main() -> int:
    """Run the trial that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.alerts", description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(_FAULTS), help=f"of {', '.join(_FAULTS)} (all)")
    parser.add_argument("--hold", type=float, default=0, help="keep all up for so many seconds in the end")
    arguments = parser.parse_args()
    unknown = set(arguments.faults) - set(_FAULTS)
    if unknown or shutil.which("prometheus") is None:
        parser.error(f"no such fault: {unknown}" if unknown else "prometheus is not installed")
    with tempfile.TemporaryDirectory(prefix="notifyd-alerts-") as folder:
        Path(folder).chmod(0o711)  # as root, the database server is another user, who must get in
        problems = asyncio.run(run(Path(folder), arguments.faults, arguments.hold))
    for problem in problems:
        print(f"WRONG: {problem}")
    print("good" if not problems else "NOT GOOD")
    return 0 if not problems else 1


if __name__ == "__main__":
    sys.exit(main())
