"""One variant of the engine benchmark as a process: `NAME SERVERS TOPIC COUNT`; prints records per second."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import uuid
from typing import Any

import faust
import uvloop
from aiokafka import AIOKafkaConsumer

from notifyd.metrics import Metrics
from notifyd.roles.collector import calm_collector
from notifyd.settings import load_settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.engine import EngineApp, EngineOptions
from notifyd.stream.work import work_on_batches, work_on_records


class Clock:
    """Counts records and knows the rate from the first to the last."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._count = count
        self._began = 0.0
        self.done = asyncio.Event()

    def saw(self, number: int) -> None:
        """Count `number` more records."""
        if not self._began:
            self._began = time.perf_counter()
        self._left -= number
        if self._left <= 0 and not self.done.is_set():
            self.rate = self._count / (time.perf_counter() - self._began)
            self.done.set()


async def plain(servers: str, topic: str, clock: Clock) -> None:
    """A bare loop around `getmany`, committing every half second like the engine."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=uuid.uuid4().hex,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=50,
        session_timeout_ms=6000,
        isolation_level="read_committed",
    )
    await consumer.start()
    committed = time.monotonic()
    while not clock.done.is_set():
        for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
            clock.saw(len(records))
        if time.monotonic() - committed > 0.5:
            await consumer.commit()
            committed = time.monotonic()
    await consumer.stop()


async def engine(servers: str, topic: str, clock: Clock, *, per_record: bool) -> None:
    """Our engine, with batches or with a task per record."""
    settings = load_settings({}, kafka_bootstrap_servers=servers, kafka_session_timeout_s=6.0)
    options = EngineOptions(
        role="bench", group=uuid.uuid4().hex, settings=settings, metrics=Metrics(), fail=_fail
    )
    app = EngineApp(options)

    async def batch_work(batch: Batch) -> None:
        clock.saw(len(batch.records))

    async def record_work(_: Batch, __: Record) -> None:
        clock.saw(1)

    async def surprise(_: Record, error: Exception) -> None:
        raise error

    if per_record:
        agent = work_on_records(options, record_work, surprise, concurrency=1000)
    else:
        agent = work_on_batches(options, batch_work, surprise, concurrency=4)
    app.add_agent([topic], agent, name="bench")
    await app.start()
    await clock.done.wait()
    await app.stop()


def _fail(error: Exception) -> None:
    print(error, file=sys.stderr)


async def stock(servers: str, topic: str, clock: Clock) -> None:
    """A stock Faust agent with acks on, as its manual shows it."""
    app = faust.App(
        uuid.uuid4().hex,
        broker=f"kafka://{servers}",
        value_serializer="raw",
        datadir=tempfile.mkdtemp(),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
    )

    @app.agent(app.topic(topic, value_type=bytes))
    async def agent(stream: Any) -> None:
        async for _ in stream:
            clock.saw(1)

    await app.start()
    await clock.done.wait()
    print(clock.rate, flush=True)
    # Faust's shutdown may wait without a limit; the figure is out.
    os._exit(0)


async def main() -> None:
    """Run the variant that the arguments name."""
    name, servers, topic, count = sys.argv[1:5]
    clock = Clock(int(count))
    # As a notifyd process does; the anchors get it too.
    calm_collector()
    if name == "plain":
        await plain(servers, topic, clock)
    elif name == "faust":
        await stock(servers, topic, clock)
    else:
        await engine(servers, topic, clock, per_record=name == "tasks")
    print(clock.rate)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
