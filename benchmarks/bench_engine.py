"""The engine against a plain aiokafka loop and against stock Faust: records per second.

Every variant reads the same records of 300 bytes from four partitions in a group of its own,
from the first record to the last.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.harness import Ratio, Variant, compare
from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.kafka import LocalKafka, find_jars

PARTITIONS = 4
VALUE = b'{"from":"orders","UUID":"019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11","content":"' + b"x" * 226 + b'"}'
#: Stock Faust is so much slower that it gets fewer; rates compare all the same.
RECORDS = {"plain": 400_000, "batches": 400_000, "tasks": 400_000, "faust": 30_000}

RATIOS = (
    Ratio("batch agent / plain getmany loop", "batches", "plain", 0.8),
    Ratio("a task per record with ledger / plain", "tasks", "plain", 0.3),
    Ratio("batch agent / stock Faust agent", "batches", "faust", 20.0),
)


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Run on each broker there is."""
    kinds = [("Apache Kafka", LocalKafka)] if find_jars() else []
    for kind, make in [*kinds, ("embedded broker", EmbeddedBroker)]:
        with _broker(make) as servers:
            topic = f"bench-{uuid.uuid4().hex[:8]}"
            asyncio.run(_fill(servers, topic, max(RECORDS.values())))
            variants = [
                Variant(
                    name,
                    [sys.executable, "-m", "benchmarks.engine_variants", name, servers, topic, str(count)],
                    "records/s",
                )
                for name, count in RECORDS.items()
            ]
            yield compare(f"engine on {kind}", variants, RATIOS, rounds=rounds)


@contextmanager
def _broker(make: type[LocalKafka] | type[EmbeddedBroker]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        broker = make(Path(directory))
        try:
            yield broker.start()
        finally:
            broker.stop()


async def _fill(servers: str, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=20, max_batch_size=256 * 1024)
    await producer.start()
    sent = [
        await producer.send(topic, VALUE, key=b"%036d" % number, partition=number % PARTITIONS)
        for number in range(count)
    ]
    await asyncio.gather(*sent)
    await producer.stop()
