"""`python -m tests.storm.destinations`: 20,000 webhooks to 50 hosts of which 15 hang, fail or refuse.

First to the 35 good ones alone, then to all: how much longer do the good ones take? Then the faulty ones are
mended, and everything must arrive; then `deliver` is killed -9 five times on the way of as many again. Exit
code 1 where something is lost, or the good hosts took longer than 1.3 times their time alone.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from notifyd.message.ids import new_id
from notifyd.producer import Confirmation, Notifier
from tests.fixtures.processes import NotifydProcess
from tests.storm.cluster import Cluster
from tests.storm.destination_hosts import HostsConfig, address_of
from tests.storm.load import cpu_s_of
from tests.storm.records import lines_of, now_ms
from tests.storm.verdict import run_for_verdict

_WELL: Final = 35
_OF_EACH: Final = 5
_MOST_RATIO: Final = 1.3
_CHUNK: Final = 500
_LOOK_S: Final = 0.5
_KILLS: Final = 5
_OUTCOME: Final = re.compile(
    r'^notifyd_deliveries_total\{channel="webhook",outcome="(\w+)",reason="(\w*)"\} (\S+)', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of a process, and its outcomes by reason."""

    cpu_s: float
    outcomes: Counter[str]

    def since(self, before: Used) -> Used:
        """Return what came after `before`."""
        return Used(self.cpu_s - before.cpu_s, self.outcomes - before.outcomes)

    def __str__(self) -> str:
        told = ", ".join(f"{count} {reason}" for reason, count in self.outcomes.most_common())
        return f"{self.cpu_s:.1f} s of CPU: {told}"


class Trial:
    """The hosts' journal, and what was sent to whom."""

    def __init__(self, cluster: Cluster, hosts: HostsConfig, deliver: NotifydProcess) -> None:
        self.cluster = cluster
        self.hosts = hosts
        self.deliver = deliver
        self.sent: dict[int, set[str]] = {number: set() for number in range(hosts.count)}
        self.most_kib = 0

    async def send(self, numbers: Sequence[int], per_host: int) -> int:
        """Send to each of these hosts in turn, as fast as the broker takes it; return when it began (ms)."""
        began_ms = int(time.time() * 1000)
        todo = [number for _ in range(per_host) for number in numbers]
        async with Notifier(self.cluster.settings, sender="orders") as notifier:
            for start in range(0, len(todo), _CHUNK):
                messages = [self._message(number) for number in todo[start : start + _CHUNK]]
                results = await notifier.send_many(messages)
                if not all(isinstance(one, Confirmation) for one in results):
                    raise RuntimeError("the broker did not take all of it")
        return began_ms

    def _message(self, number: int) -> dict[str, Any]:
        message_id, user = new_id(), f"user-{number}"
        self.sent[number].add(message_id)
        url = f"http://{address_of(number)}:{self.hosts.port}/{number}"
        contacts = {user: {"webhook": [{"url": url}]}}
        return {"id": message_id, "to": user, "title": "Hi", "channels": ["webhook"], "contacts": contacts}

    def taken(self) -> tuple[dict[int, Counter[str]], dict[int, int]]:
        """Return by host how often each message was taken, and when the last new one was (ms)."""
        counts: dict[int, Counter[str]] = {number: Counter() for number in range(self.hosts.count)}
        last: dict[int, int] = {}
        for at_ms, status, message_id, host in lines_of(self.cluster.logs / "hosts.journal"):
            if status == "200":
                number = int(host)
                if not counts[number][message_id]:
                    last[number] = int(at_ms)
                counts[number][message_id] += 1
        return counts, last

    def repeated(self, since_ms: int, kills_ms: Sequence[int]) -> list[int]:
        """Return of each webhook that came again how long before a kill it had been taken, ascending (ms)."""
        times: dict[str, list[int]] = defaultdict(list)
        for at_ms, status, message_id, _ in lines_of(self.cluster.logs / "hosts.journal"):
            if status == "200" and int(at_ms) >= since_ms:
                times[message_id].append(int(at_ms))
        repeated = [at for all_ms in times.values() for at in sorted(all_ms)[:-1]]
        return sorted(min((kill - at for kill in kills_ms if kill >= at), default=0) for at in repeated)

    async def until_taken(self, numbers: Sequence[int], limit_s: float) -> int:
        """Wait until these hosts have all that was sent to them; return when the last one had it (ms)."""
        deadline = time.monotonic() + limit_s
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look_at_memory()
            counts, last = await asyncio.to_thread(self.taken)
            missing = sum(len(self.sent[number] - counts[number].keys()) for number in numbers)
            if not missing:
                return max(last[number] for number in numbers)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{missing} messages are missing after {limit_s:g} s")

    async def used(self) -> Used:
        """Return what `deliver` has done since its start."""
        url = f"http://127.0.0.1:{self.cluster.admin_ports['deliver-0']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found = _OUTCOME.findall(await answer.text())
        outcomes = Counter({reason or outcome: int(float(count)) for outcome, reason, count in found})
        return Used(cpu_s_of(self.deliver.pid), outcomes)

    def look_at_memory(self) -> None:
        """Keep the most that `deliver` had resident."""
        if self.deliver.is_running and self.deliver.process is not None:
            for line in Path(f"/proc/{self.deliver.process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    self.most_kib = max(self.most_kib, int(line.split()[1]))


async def run(directory: Path, per_host: int, only: str | None, answer_s: float) -> bool:
    """Run it, and print what was seen."""
    flag = directory / "mended"
    async with Cluster(directory, {"deliver": 1}, {}) as cluster:
        hosts = HostsConfig(cluster.hook_port, _WELL, _OF_EACH, str(flag), answer_s)
        cluster.add_party("hosts", hosts, module="destination_hosts")
        deliver = cluster.roles["deliver-0"]
        deliver.start()
        while not await cluster.are_ready():  # noqa: ASYNC110 - looked at once in a while
            await asyncio.sleep(_LOOK_S)
        trial = Trial(cluster, hosts, deliver)
        is_good = only == "kills" or await _bear_faults(trial, per_host, flag)
        if only != "faults":
            flag.touch()
            await _bear_kills(trial, per_host)
        await asyncio.to_thread(deliver.close)
    return is_good


async def _bear_faults(trial: Trial, per_host: int, flag: Path) -> bool:
    """See how much longer the good hosts wait beside faulty ones, which are mended then."""
    well, everyone = range(_WELL), range(trial.hosts.count)
    before = await trial.used()
    began_ms = await trial.send(well, per_host)
    alone_s = (await trial.until_taken(well, 300) - began_ms) / 1000
    alone = (await trial.used()).since(before)
    alone_kib, trial.most_kib = trial.most_kib, 0
    _tell(f"alone              {alone_s:6.1f} s, {_WELL * per_host} webhooks to {_WELL} hosts")
    _tell(f"                   {alone}")

    before = await trial.used()
    began_ms = await trial.send(everyone, per_host)
    beside_s = (await trial.until_taken(well, 600) - began_ms) / 1000
    beside = (await trial.used()).since(before)
    ratio = beside_s / alone_s
    _tell(f"beside faulty ones {beside_s:6.1f} s: {ratio:.2f} of that ({_MOST_RATIO:g} may be)")
    _tell(f"                   {beside}, {beside.cpu_s / alone.cpu_s:.2f} of that alone")
    await asyncio.sleep(20)
    trial.look_at_memory()
    _tell(f"memory             {alone_kib // 1024} MB alone, {trial.most_kib // 1024} MB beside")

    flag.touch()
    mended_ms = int(time.time() * 1000)
    all_s = (await trial.until_taken(everyone, 1500) - mended_ms) / 1000
    _tell(f"all arrived        {all_s:6.1f} s after the faulty ones were mended")
    return ratio <= _MOST_RATIO


async def _bear_kills(trial: Trial, per_host: int) -> None:
    """Kill `deliver` on the way of webhooks to hosts that are well: nothing may be missing."""
    everyone = range(trial.hosts.count)
    kills = asyncio.create_task(_kill(trial.deliver))
    began_ms = await trial.send(everyone, per_host)
    at_ms = await kills
    await trial.until_taken(everyone, 900)
    ages = await asyncio.to_thread(trial.repeated, began_ms, at_ms)
    _tell(f"killed {_KILLS} times     nothing lost; {len(ages)} webhooks came more than once")
    if ages:
        most = ages[int(0.95 * len(ages))]
        _tell(
            f"                   taken {ages[len(ages) // 2]} ms before a kill at the median, {most} at 95%"
        )


def _tell(line: str) -> None:
    print(line, flush=True)


async def _kill(deliver: NotifydProcess) -> list[int]:
    """Kill it and start it again, and return when that was (ms)."""
    at_ms = []
    for _ in range(_KILLS):
        await asyncio.sleep(4)
        await asyncio.to_thread(deliver.kill)
        at_ms.append(now_ms())
        deliver.start()
    return at_ms


def main() -> int:
    """Run the trial that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.destinations", description=__doc__)
    parser.add_argument("--only", choices=("faults", "kills"), help="one half of it")
    parser.add_argument("--per-host", type=int, default=400, help="messages to each host (400)")
    parser.add_argument(
        "--answer-ms", type=float, default=50.0, help="how long a host that is well takes to answer (50 ms)"
    )
    arguments = parser.parse_args()
    return run_for_verdict(
        "destinations",
        lambda folder: run(folder, arguments.per_host, arguments.only, arguments.answer_ms / 1000),
    )


if __name__ == "__main__":
    sys.exit(main())
