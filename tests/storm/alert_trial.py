"""What a trial of the alerts has: a cluster under load, and a Prometheus with our rules in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

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
    # Half an hour is a minute here, and members come and go no faster for it.
    "NotifydRebalancesOften": ("> 10", "> 4"),
}
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

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.port = free_port()
        self.fired: dict[str, float] = {}
        self.now: set[str] = set()
        self.old: set[str] = set()
        self._targets = folder / "targets.json"
        folder.mkdir()
        self.aim(ports)
        for path in RULES.glob("*.yaml"):
            (folder / path.name).write_text(yaml.safe_dump(scaled_rules(path)))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml", "recording.yaml"],
            "scrape_configs": [{"job_name": "notifyd", "file_sd_configs": [{"files": [str(self._targets)]}]}],
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

    def aim(self, ports: Mapping[str, int]) -> None:
        """Scrape these admin ports of pods by name from now on."""
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "storm", "pod": name}}
            for name, port in ports.items()
        ]
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(targets))
        fresh.replace(self._targets)

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
        tell(f"{what}: {told or 'nothing fired'}")
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

    @contextlib.asynccontextmanager
    async def otherwise(self, names: Sequence[str], env: Mapping[str, str]) -> AsyncIterator[None]:
        """Run these roles with `env` on top until the block ends."""
        before = {name: self.cluster.roles[name].env for name in names}
        await self._restart({name: {**kept, **env} for name, kept in before.items()})
        try:
            yield
        finally:
            await self._restart(before)

    async def _restart(self, envs: Mapping[str, dict[str, str]]) -> None:
        for name, env in envs.items():
            process = self.cluster.roles[name]
            await asyncio.to_thread(process.sigterm, timeout_s=_READY_S)
            process.env = env
            process.start()
        await self.all_ready()

    async def quiet(self, *names: str) -> None:
        """Return once none of these fires any more."""
        async with asyncio.timeout(_LIMIT_S):
            while {name.partition("(")[0] for name in self.prometheus.now} & set(names):  # noqa: ASYNC110
                await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def beside(*works: Awaitable[None]) -> AsyncIterator[None]:
    """Run these until the block ends; a failure of theirs is none of the trial's."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)
