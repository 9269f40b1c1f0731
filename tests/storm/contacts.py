"""`python -m tests.storm.contacts`: how soon a contact that was changed or deleted counts on three pods.

Messages to one user come all the while over all partitions, and so by all three `deliver` processes. Each
change names another URL, every third one deletes. What a receiver is still sent for a contact that the broker
has another one of is stale by that long. Exit code 1 where that was ever more than two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Final

import aiohttp

from notifyd.metrics import Metrics
from notifyd.producer import Notifier
from notifyd.stream.producer import Producer
from notifyd.stream.records import OutRecord
from notifyd.stream.topics import Topics
from tests.storm.cluster import Cluster
from tests.storm.destination_hosts import HostsConfig, address_of
from tests.storm.records import lines_of, now_ms
from tests.storm.verdict import run_for_verdict

_PODS: Final = 3
_MOST_S: Final = 2.0
_EVERY_S: Final = 3.0
_PER_S: Final = 100
_DONE: Final = re.compile(
    r'^notifyd_deliveries_total\{channel="webhook",outcome="done",\S* (\S+)', re.MULTILINE
)


async def run(directory: Path, changes: int) -> bool:
    """Run it, and print what was seen."""
    flag = directory / "mended"
    flag.touch()
    # All messages go to one host here.
    async with Cluster(directory, {"deliver": _PODS}, {"NOTIFYD_WEBHOOK_HOST_CONCURRENCY": "200"}) as cluster:
        cluster.add_party(
            "hosts", HostsConfig(cluster.hook_port, 1, 0, str(flag)), module="destination_hosts"
        )
        for role in cluster.roles.values():
            role.start()
        while not await cluster.are_ready():  # noqa: ASYNC110 - looked at once in a while
            await asyncio.sleep(0.2)
        since_ms: list[int] = []
        sending = asyncio.create_task(_send(cluster))
        try:
            for number in range(changes):
                since_ms.append(await _change(cluster, number))
                await asyncio.sleep(_EVERY_S)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        each = await asyncio.gather(*(_delivered(cluster, port) for port in cluster.admin_ports.values()))
        await cluster.parties["hosts"].stop()
        calls = [(int(at), int(number)) for at, _, _, number in lines_of(cluster.logs / "hosts.journal")]
    stale = dict.fromkeys(range(changes), 0)
    for at_ms, number in calls:
        if number + 1 < changes:
            stale[number] = max(stale[number], at_ms - since_ms[number + 1])
    for name, is_it in (
        ("changed", lambda n: not _is_deletion(n + 1)),
        ("deleted", lambda n: _is_deletion(n + 1)),
    ):
        found = [value for number, value in stale.items() if is_it(number) and number + 1 < changes]
        longer = f"{statistics.median(found):.0f} ms longer, {max(found)} ms at most"
        print(f"{name:<10} {len(found)} times: the one before counted {longer}")
    print(f"webhooks   {len(calls)}, by each of the pods {', '.join(map(str, each))}")
    return max(stale.values()) <= _MOST_S * 1000 and all(each)


def _is_deletion(number: int) -> bool:
    return number % 3 == 2


async def _change(cluster: Cluster, number: int) -> int:
    """Write the contact, and return when the broker had it (ms)."""
    url = f"http://{address_of(0)}:{cluster.hook_port}/{number}"
    value = None if _is_deletion(number) else json.dumps({"webhook": [{"url": url}]}).encode()
    producer = Producer(cluster.settings, Metrics(), client_id="trial")
    await producer.start()
    try:
        await producer.send(OutRecord(Topics.of(cluster.settings).contacts, value, key=b"ann"))
    finally:
        at_ms = now_ms()
        await producer.stop(1.0)
    return at_ms


async def _send(cluster: Cluster) -> None:
    """Send to the user until cancelled."""
    async with Notifier(cluster.settings, sender="orders") as notifier:
        while True:
            await asyncio.gather(
                asyncio.sleep(0.1),
                notifier.send_many([{"to": "ann", "title": "Hi", "channels": ["webhook"]}] * (_PER_S // 10)),
            )


async def _delivered(cluster: Cluster, port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        return int(sum(float(count) for count in _DONE.findall(await answer.text())))


def main() -> int:
    """Run the trial that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm.contacts", description=__doc__)
    parser.add_argument("--changes", type=int, default=30, help="how often the contact changes (30)")
    arguments = parser.parse_args()
    return run_for_verdict("contacts", lambda folder: run(folder, arguments.changes))


if __name__ == "__main__":
    sys.exit(main())
