"""What the storms of push have in common: ws processes, devices, a backend, and a verdict on every device."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from tests.storm.check import Facts, Loss
from tests.storm.cluster import Cluster, Party
from tests.storm.collect import read_backend
from tests.storm.devices import DevicesConfig, count_users
from tests.storm.groups import Groups
from tests.storm.produce import ProducerConfig
from tests.storm.push_check import Lives, figures, find_losses, find_missing, read_lives

READY_S = 90.0
_LOOK_S = 2.0
#: Losses that are printed.
_MOST = 15
_STATES = "SELECT message_id::text, user_id, state FROM delivery WHERE channel = 'ws'"

Tell = Callable[[str], None]


@dataclass
class Found:
    """What is known in the end."""

    losses: list[Loss] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Nothing lost, and nothing in the way of telling."""
        return not self.losses and not self.problems


class Trial:
    """Devices in `parties` processes, and messages to them at `per_s`, over a cluster that runs."""

    #: What is sent, of `PLANS`, and whose lag must go away in the end.
    plan = "push"
    roles: Sequence[str] = ("persist",)

    def __init__(self, cluster: Cluster, seed: int, devices: int, tell: Tell) -> None:
        self.cluster = cluster
        self.found = Found()
        self.tell = tell
        self.seed = seed
        self.devices = devices
        self._parties: list[Party] = []
        self._began = time.monotonic()

    def now(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self._began

    @property
    def lives(self) -> Lives:
        """What the devices wrote down by now."""
        return read_lives(party.journal for party in self._parties)

    async def until(
        self, look: Callable[[], bool | Awaitable[bool]], what: str, limit_s: float, *, every_s: float = 0.3
    ) -> bool:
        """Wait until `look` says so; in vain is a problem."""
        deadline = time.monotonic() + limit_s
        while True:
            found = look()
            if await found if isinstance(found, Awaitable) else found:
                return True
            if time.monotonic() > deadline:
                self.found.problems.append(f"waited {limit_s:g} s in vain for {what}")
                return False
            await asyncio.sleep(every_s)

    async def connect(self, parties: int, *, urls: Sequence[str] = (), **more: Any) -> None:
        """Start the devices, and wait until all have a session; `urls` of any ws process by default."""
        ends = [self.devices * number // parties for number in range(parties + 1)]
        for number in range(parties):
            first, end = ends[number], ends[number + 1]
            places = tuple(urls or self.cluster.push_urls)
            config = DevicesConfig(self.seed, self.devices, first, end - first, places, **more)
            self._parties.append(self.cluster.add_party(f"devices-{number}", config, module="devices"))
        limit_s = 60 + self.devices / 50
        await self.until(self._were_open, "all devices to be connected", limit_s, every_s=1.0)

    def _were_open(self) -> bool:
        # Their troubles have begun already, so some may be gone again.
        lives = self.lives.devices
        return len(lives) == self.devices and all(life.opens for life in lives.values())

    def _are_open(self) -> bool:
        lives = self.lives.devices
        return len(lives) == self.devices and all(life.is_open for life in lives.values())

    def send(self, count: int, per_s: float) -> Party:
        """Start the backend, and the clock."""
        self._began = time.monotonic()
        users = count_users(self.devices)
        port = self.cluster.hook_port
        config = ProducerConfig(self.seed, count, per_s, users, port, 10.0, plan=self.plan)
        return self.cluster.add_party("produce", config)

    async def conclude(self, backend: Party, limit_s: float) -> None:
        """Wait until all is sent and all have everything, end the devices, and judge."""
        try:
            if (code := await backend.wait(limit_s)) != 0:
                self.found.problems.append(f"the backend ended with {code}, see {backend.log_file}")
        except TimeoutError:
            self.found.problems.append("the backend could not send everything")
            await backend.stop()
        self.tell(f"{self.now():7.2f} s  calm: all is sent")
        await self.until(self.cluster.are_ready, "all roles to be ready", READY_S)
        sent = self.facts().sent
        await self.until(
            lambda: not find_missing(sent, self.lives), "all to have everything", 150.0, every_s=_LOOK_S
        )
        await self.until(self._are_open, "all devices to be back", 60.0, every_s=1.0)
        for end in await asyncio.gather(
            *(party.stop(90.0) for party in self._parties), return_exceptions=True
        ):
            if end != 0:
                self.found.problems.append(f"devices ended with {end!r}, see {self.cluster.logs}")
        await self._settle()
        await asyncio.to_thread(self.judge)

    def facts(self) -> Facts:
        """Return what was sent by now."""
        journals = [self.cluster.logs / f"{name}.journal" for name in ("produce", "call")]
        users = count_users(self.devices)
        return read_backend(journals, seed=self.seed, listeners=users, plan=self.plan)

    async def _settle(self) -> None:
        groups = Groups(self.cluster.settings, self.now, roles=self.roles)
        try:
            if left := await groups.settle(240.0, 100.0, self.tell):
                self.found.problems.append(f"lag that does not go away: {left}")
        finally:
            await groups.close()

    def judge(self) -> None:
        """Hold what devices and the database have against what was sent."""
        facts, lives = self.facts(), self.lives
        url = self.cluster.settings.database_url
        assert url is not None
        with closing(psycopg2.connect(url.get_secret_value())) as connection, connection.cursor() as cursor:
            cursor.execute(_STATES)
            states = {(message_id, user): state for message_id, user, state in cursor.fetchall()}
        self.found.losses = find_losses(facts.sent, facts.unsure, lives, states)
        self.found.figures |= figures(facts.sent, lives)
        self.found.figures["acked_rows"] = sum(1 for state in states.values() if state == "acked")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every trial takes."""
    add = parser.add_argument
    add("--seed", type=int, default=random.randrange(10_000), help="draws messages and faults (any)")
    add("--parties", type=int, default=2, help="processes of devices (2)")
    add("--directory", type=Path, help="where to (a new one under the temporary folder)")
    add("--json", action="store_true", help="one JSON object on standard output, the rest on standard error")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option that gives roles other settings; `settings_of` reads it."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="NOTIFYD_X=Y", help="a setting of the roles"
    )


def settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what `--set` says, as environment variables."""
    return dict(pair.split("=", 1) for pair in arguments.set)


def run_trial(
    title: str, arguments: argparse.Namespace, run: Callable[[Path, Tell], Coroutine[Any, Any, Trial]]
) -> int:
    """Run one in a directory, tell what was found, and return the exit code."""
    told = sys.stderr if arguments.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=told, flush=True)

    # Our own questions to a broker that is away on purpose would fill the page.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix=f"notifyd-{title}-"))
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)  # as root, the database server is another user, who must get in
    found = asyncio.run(run(directory, tell)).found
    tell(f"\n{title} of seed {arguments.seed}: {'nothing lost' if found.is_good else 'NOT GOOD'}")
    for line in _lines(found):
        tell(f"  {line}")
    if arguments.json:
        report = {"ok": found.is_good, "lost": [str(one) for one in found.losses[:1000]]}
        print(json.dumps({**report, "problems": found.problems, **found.figures}))
    for data in ("kafka/data", "postgres"):
        shutil.rmtree(directory / data, ignore_errors=True)
    if found.is_good:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        tell(f"  {'logs':<24} {directory / 'logs'}")
    return 0 if found.is_good else 1


def _lines(found: Found) -> Iterator[str]:
    for name, value in found.figures.items():
        yield f"{name:<24} {value}"
    for problem in found.problems:
        yield f"{'problem':<24} {problem}"
    for loss in found.losses[:_MOST]:
        yield f"{'lost':<24} {loss}"
    if len(found.losses) > _MOST:
        yield f"... and {len(found.losses) - _MOST} more"
