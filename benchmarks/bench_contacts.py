"""A million contacts: how long a `deliver` process takes to know them, and what a look-up costs.

`python -m benchmarks.bench_contacts [--users 1000000]`. The copy is made from nothing, then taken up again
from its file, each by a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.progress import Progress

from notifyd.dev.kafka import LocalKafka
from notifyd.metrics import Metrics
from notifyd.settings import Settings, load_settings
from notifyd.stream.contacts import Contacts
from notifyd.stream.topics import Topics, create_topics, read_incarnation

LOOK_UPS = 200_000


def contact_of(number: int) -> bytes:
    """Return a contact of two addresses and a rule, 200 bytes or so."""
    return json.dumps(
        {
            "email": [f"user-{number}@example.org"],
            "webhook": [
                {"url": f"https://hooks.example.com/in/{number}", "secret": "whsec_c2VjcmV0IG9mIDI0IGJ5dGVz"}
            ],
            "mute": [{"from": "22:00", "until": "07:00"}],
        }
    ).encode()


async def fill(settings: Settings, users: int) -> None:
    """Put a contact of each user on the topic."""
    await create_topics(settings)
    topic = Topics.of(settings).contacts
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, linger_ms=20, max_batch_size=256 * 1024
    )
    await producer.start()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("contacts", total=users)
        for start in range(0, users, 20_000):
            sent = [
                await producer.send(topic, contact_of(number), key=b"user-%d" % number)
                for number in range(start, min(users, start + 20_000))
            ]
            await asyncio.gather(*sent)
            progress.advance(task, len(sent))
    await producer.stop()


async def follow(settings: Settings, users: int) -> dict[str, float]:
    """Start as `deliver` does, and look users up."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contacts = Contacts(
        settings, Metrics(), await read_incarnation(settings), lambda error: sys.exit(str(error))
    )
    began = time.perf_counter()
    await contacts.start()
    await contacts.wait()
    took_s = time.perf_counter() - began
    keys = [f"user-{random.randrange(users)}" for _ in range(LOOK_UPS)]
    began = time.perf_counter()
    for key in keys:
        assert contacts.get(key)
    each_us = (time.perf_counter() - began) / LOOK_UPS * 1e6
    most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await contacts.stop()
    return {
        "start_s": round(took_s, 2),
        "look_up_us": round(each_us, 1),
        "memory_mib": round(most_kib / 1024),
        "of_that_before_mib": round(before_kib / 1024),
    }


def main() -> int:
    """Measure, and print a line for each start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_contacts", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        settings = load_settings({}, **json.loads(arguments.follow))
        print(json.dumps(asyncio.run(follow(settings, arguments.users))))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        broker = LocalKafka(Path(directory) / "kafka")
        try:
            values = {
                "kafka_bootstrap_servers": broker.start(),
                "topic_replication": 1,
                "contacts_dir": str(Path(directory) / "contacts"),
            }
            asyncio.run(fill(load_settings({}, **values), arguments.users))
            command = [sys.executable, "-m", "benchmarks.bench_contacts", "--users", str(arguments.users)]
            for name in ("from nothing", "from its file"):
                done = subprocess.run(
                    [*command, "--follow", json.dumps(values)], check=True, capture_output=True, text=True
                )
                print(f"{name:<14} {done.stdout.splitlines()[-1]}", flush=True)
            size = sum(path.stat().st_size for path in (Path(directory) / "contacts").iterdir())
            print(f"the file has {size / 2**20:.0f} MiB")
        finally:
            broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
