"""What a webhook costs beside a bare aiohttp client in a loop, at the same receiver.

`bare` posts the same bytes without a signature, a check of the address, a limit by host. `channel` is the
channel alone: encoded, signed, resolved, counted. `deliver` is the whole role, from records on Apache Kafka
to the events that tell of their end. Each is a process of its own, with 100 calls at a time to one host.
Throughput is by the receiver's clock; the CPU is that of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, Unavailable, gather
from benchmarks.webhook_variants import CALLS, SECRET
from notifyd.dev.kafka import LocalKafka, find_jars
from notifyd.producer import Notifier
from notifyd.settings import load_settings, variable_of
from notifyd.stream.topics import create_topics
from tests.fixtures.processes import NotifydProcess

COUNT = 20_000
RATIOS = (
    Ratio("webhooks/s, channel / bare", "channel, per s", "bare, per s", 0.5),
    Ratio("webhooks/s, deliver / bare", "deliver, per s", "bare, per s", 0.5),
    Ratio("webhooks a CPU second, channel / bare", "channel, per CPU s", "bare, per CPU s", 0.5),
    Ratio("webhooks a CPU second, deliver / bare", "deliver, per CPU s", "bare, per CPU s", 0.5),
)
_WAIT_S = 120.0


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Measure the three in turn."""
    yield gather(
        f"{COUNT:,} webhooks to one receiver",
        ("bare", "channel", "deliver"),
        measure,
        RATIOS,
        rounds=rounds,
        unit="",
    )


def measure(name: str) -> dict[str, float]:
    """Return webhooks a second, and a second of CPU."""
    with receiver() as port:
        cpu_s = _deliver(port) if name == "deliver" else _client(name, port)
        seen = _seen(port)
    if seen["count"] < COUNT:
        raise RuntimeError(f"{name}: the receiver saw {seen['count']} of {COUNT} webhooks")
    seconds = seen["last_s"] - seen["first_s"]
    return {f"{name}, per s": COUNT / seconds, f"{name}, per CPU s": COUNT / cpu_s}


@contextmanager
def receiver() -> Iterator[int]:
    """Run the receiver as a process, and give its port."""
    command = [sys.executable, "-m", "benchmarks.webhook_variants", "receive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _seen(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _client(name: str, port: int) -> float:
    command = [sys.executable, "-m", "benchmarks.webhook_variants", name, str(port), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
    return float(done.stdout.split()[-1])


def _deliver(port: int) -> float:
    """Have the role work off a backlog; return the CPU seconds that it took."""
    if find_jars() is None:
        raise Unavailable("no Apache Kafka: fetch it with `make kafka`")
    with tempfile.TemporaryDirectory() as directory:
        broker = LocalKafka(Path(directory) / "kafka")
        role = None
        try:
            more = {
                "webhook_allow_private": "true",
                "webhook_host_concurrency": str(CALLS),
                "deliver_concurrency": str(CALLS),
            }
            settings = load_settings(
                {}, kafka_bootstrap_servers=broker.start(), topic_replication=1, topic_partitions=4
            )
            asyncio.run(create_topics(settings))
            env = {
                variable_of("kafka_bootstrap_servers"): settings.kafka_bootstrap_servers,
                **{variable_of(name): value for name, value in more.items()},
            }
            asyncio.run(_send(settings, port))
            role = NotifydProcess(["--role=deliver"], env, Path(directory)).start()
            role.port("admin")  # it has loaded, and joins its group now
            before_s = _cpu_s(role.pid)
            deadline = time.monotonic() + _WAIT_S
            while _seen(port)["count"] < COUNT and time.monotonic() < deadline:
                time.sleep(0.2)
            return _cpu_s(role.pid) - before_s
        finally:
            if role is not None:
                role.close()
            broker.stop()


async def _send(settings: Any, port: int) -> None:
    contacts = {"ann": {"webhook": [{"url": f"http://127.0.0.1:{port}/hook", "secret": SECRET}]}}
    message = {
        "to": "ann",
        "title": "On its way",
        "body": "x" * 200,
        "channels": ["webhook"],
        "contacts": contacts,
    }
    async with Notifier(settings, sender="bench") as notifier:
        for _ in range(0, COUNT, 500):
            await notifier.send_many([message] * 500)


def _cpu_s(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
