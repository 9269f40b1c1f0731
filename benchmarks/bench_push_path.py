"""From `Notifier.send` to the client: 1,000 messages a second over Apache Kafka to 2,000 clients.

Everything is real and on this machine: the broker, `notifyd --role=ws` as it is installed, a producer,
clients that acknowledge. The time is from just before `send` to the frame in the client, by one clock.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, Unavailable, gather
from benchmarks.push.drive import Kind, Program, clients, connect
from benchmarks.push.work import SECRET, content, user_name
from notifyd.dev.kafka import LocalKafka, find_jars
from notifyd.producer import Notifier
from notifyd.settings import Settings, load_settings, variable_of
from notifyd.stream.topics import create_topics
from tests.fixtures.processes import NotifydProcess

PER_S = 1_000
CLIENTS = 2_000
#: The broker's JVM compiles, connections are made.
WARM_UP_S = 15.0
MEASURED_S = 15.0
#: Sends begun in one go: a hundred times a second.
CHUNK = 10
RATIOS = (Ratio("p99 from produce to client, ms", "p99", None, 25.0, "at most"),)
HELLO = Kind((), "/v1/push", '{{"op":"hello","token":"{}","content":["1"],"ack":true}}')


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Measure on Apache Kafka, where `make kafka` fetched it."""
    title = f"push, produce to client at {PER_S:,} messages/s"
    names = ("the whole path",)
    yield gather(title, names, lambda _: measure(), RATIOS, rounds=min(rounds, 3), unit="ms")


def measure() -> dict[str, float]:
    """Start all of it, send, and return p50 and p99 in ms."""
    with (
        surroundings() as (settings, server),
        clients(server.port("http"), CLIENTS, HELLO, is_acking=True) as program,
    ):
        connect(program, CLIENTS)
        count = asyncio.run(_send(settings, program))
        got = program.ask(f"await {count} 10000")
        if int(got[1]) != count:
            raise RuntimeError(f"clients got {got[1]} of {count} messages")
        _, _, p50, p99, _ = program.ask("latency")
        return {"p50": float(p50) / 1000, "p99": float(p99) / 1000}


@contextmanager
def surroundings(**more: Any) -> Iterator[tuple[Settings, NotifydProcess]]:
    """Run Apache Kafka with its topics, and a `ws` process that is ready."""
    if find_jars() is None:
        raise Unavailable("no Apache Kafka: fetch it with `make kafka`")
    with tempfile.TemporaryDirectory() as directory:
        broker = LocalKafka(Path(directory) / "kafka")
        server = None
        try:
            settings = load_settings(
                {},
                kafka_bootstrap_servers=broker.start(),
                jwt_secret=SECRET,
                topic_replication=1,
                topic_partitions=4,
                **more,
            )
            asyncio.run(create_topics(settings))
            env = {
                variable_of("kafka_bootstrap_servers"): settings.kafka_bootstrap_servers,
                variable_of("jwt_secret"): SECRET,
                variable_of("pod_name"): "bench",
                **{variable_of(name): str(value) for name, value in more.items()},
            }
            server = NotifydProcess(["--role=ws"], env, Path(directory)).start().wait_ready()
            yield settings, server
        finally:
            if server is not None:
                server.close()
            broker.stop()


async def _send(settings: Settings, program: Program) -> int:
    """Send at the rate until all is warm, have the latencies forgotten, and send on; return how many."""
    numbers = [0] * CLIENTS
    sends: set[asyncio.Task[Any]] = set()
    warm, total = (int(seconds * PER_S) for seconds in (WARM_UP_S, WARM_UP_S + MEASURED_S))
    async with Notifier(settings, sender="bench") as notifier:
        began = time.monotonic()
        for first in range(0, total, CHUNK):
            await asyncio.sleep(max(0.0, began + first / PER_S - time.monotonic()))
            if first == warm:
                program.ask("latency")
            for number in range(first, first + CHUNK):
                user = number % CLIENTS
                data = content(numbers[user], int(time.time() * 1e6))
                numbers[user] += 1
                sends.add(asyncio.create_task(notifier.send(to=user_name(user), content=data)))
        await asyncio.gather(*sends)
    return total
