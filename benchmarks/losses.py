"""What stock Faust 0.15.3 loses, and our engine beside it: `python -m benchmarks.losses`.

Each case writes 1,000 records to a partition of its own and starts a worker that notes, in a
file that survives it, every record whose work is done. Where the case says so the worker is
killed (SIGKILL) at 400 and at 700 records and started again. Once nothing has moved for a while,
what lies before the group's offset and was never noted is lost: nobody will read it again.

The workers differ in the engine alone: same topic, same work, one record in fifty takes
three seconds and the others milliseconds, so that acks come out of order as with any webhook.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from notifyd.dev.kafka import LocalKafka

COUNT = 1000
KILL_AT = (400, 700)
#: Nothing moves any more once this much time has passed without a new note.
QUIET_S = 10.0


@dataclass(frozen=True)
class Case:
    """One way to lose records; `kills` tells whether the worker is killed."""

    name: str
    about: str
    kills: bool


CASES = (
    Case("concurrency", "agent with concurrency=10, killed twice", kills=True),
    Case("noack", "stream.noack(), a task per record that acks when done, killed twice", kills=True),
    Case("take", "take(50, within=0.5), one body in five raises once", kills=False),
    Case("exception", "an agent that raises at one record in fifty, once", kills=False),
)


class Notes:
    """What is done, one line a record, in a file opened for appending: a kill loses no line."""

    def __init__(self, path: str, seed: str) -> None:
        self._seed = seed
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._failed = set(Path(path + ".failed").read_text().split()) if _exists(path + ".failed") else set()
        self._failures = os.open(path + ".failed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def done(self, value: bytes) -> None:
        """Note a record whose work is done."""
        os.write(self._file, value + b"\n")

    def fails_now(self, name: str, share: float) -> bool:
        """Whether the work on `name` fails this time: a share of them does, and each once."""
        if name in self._failed or random.Random(self._seed + name).random() > share:
            return False
        self._failed.add(name)
        os.write(self._failures, name.encode() + b"\n")
        return True


def _exists(path: str) -> bool:
    return Path(path).exists()


async def work(value: bytes) -> None:
    """Work that takes milliseconds, or now and then seconds."""
    slow = random.Random(value).random() < 0.02
    await asyncio.sleep(3.0 if slow else random.uniform(0.002, 0.01))


# Workers


async def stock(case: str, servers: str, topic: str, group: str, notes: Notes) -> None:
    """A stock Faust app, as its manual writes it."""
    import faust

    app = faust.App(
        group,
        broker=f"kafka://{servers}",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=0.1,
    )
    source = app.topic(topic, value_type=bytes)
    tasks: set[asyncio.Task[None]] = set()

    async def one_by_one(stream: Any) -> None:
        async for value in stream:
            await work(value)
            notes.done(value)

    async def with_tasks(stream: Any) -> None:
        async def task(event: Any) -> None:
            await work(event.value)
            notes.done(event.value)
            await stream.ack(event)

        async for event in stream.noack().events():
            started = asyncio.create_task(task(event))
            tasks.add(started)
            started.add_done_callback(tasks.discard)
            while len(tasks) >= 10:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def in_batches(stream: Any) -> None:
        async for values in stream.take(50, within=0.5):
            if notes.fails_now(values[0].decode(), 0.2):
                raise ConnectionError("the database is away")
            for value in values:
                notes.done(value)

    async def that_raises(stream: Any) -> None:
        async for value in stream:
            if notes.fails_now(value.decode(), 0.02):
                raise ConnectionError("the database is away")
            notes.done(value)

    agents = {
        "concurrency": one_by_one,
        "noack": with_tasks,
        "take": in_batches,
        "exception": that_raises,
    }
    concurrency = 10 if case == "concurrency" else 1
    app.agent(source, concurrency=concurrency, name="agent")(agents[case])
    await app.start()
    await asyncio.Event().wait()


async def ours(case: str, servers: str, topic: str, group: str, notes: Notes) -> None:
    """Our engine with the same work; a surprise is worked on again, as a retry would."""
    from notifyd.log import configure_logging
    from notifyd.metrics import Metrics
    from notifyd.settings import load_settings
    from notifyd.stream.batch import Batch, Record
    from notifyd.stream.engine import Agent, EngineApp, EngineOptions
    from notifyd.stream.work import work_on_batches, work_on_records

    settings = load_settings(
        {},
        kafka_bootstrap_servers=servers,
        kafka_session_timeout_s=6.0,
        kafka_max_poll_records=50,
        kafka_commit_interval_s=0.1,
    )
    configure_logging(settings)
    options = EngineOptions(role="losses", group=group, settings=settings, metrics=Metrics(), fail=_fail)
    app = EngineApp(options)

    async def on_record(_: Batch, record: Record) -> None:
        if case == "exception" and notes.fails_now(record.value.decode(), 0.02):
            raise ConnectionError("the database is away")
        if case != "exception":
            await work(record.value)
        notes.done(record.value)

    async def on_batch(batch: Batch) -> None:
        if batch.records and notes.fails_now(batch.records[0].value.decode(), 0.2):
            raise ConnectionError("the database is away")
        for record in batch.records:
            notes.done(record.value)

    async def again(record: Record, _: Exception) -> None:
        notes.done(record.value)

    if case == "take":
        agent: Agent = work_on_batches(options, on_batch, again, concurrency=1)
    else:
        agent = work_on_records(options, on_record, again, concurrency=10)
    app.add_agent([topic], agent, name="losses")
    await app.start()
    await asyncio.Event().wait()


def _fail(error: Exception) -> None:
    print(f"the engine ended: {error}", file=sys.stderr)
    os._exit(1)


# The judge


class Worker:
    """A worker process and its notes."""

    def __init__(self, arguments: list[str], notes: Path) -> None:
        self._arguments = arguments
        self._notes = notes
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if it was killed."""
        log = self._notes.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.losses", *self._arguments], stdout=log, stderr=log
        )
        log.close()

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def noted(self) -> list[str]:
        """Every line so far."""
        return self._notes.read_text().split() if self._notes.exists() else []


async def prepare(servers: str, topic: str) -> None:
    """Make a topic of one partition with all records in it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    for number in range(COUNT):
        await producer.send(topic, f"r{number}".encode(), partition=0)
    await producer.stop()


async def committed(servers: str, topic: str, group: str) -> int | None:
    """What the group has committed in the end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        place: int | None = await consumer.committed(TopicPartition(topic, 0))
        return place
    finally:
        await consumer.stop()


def run(case: Case, engine: str, servers: str, directory: Path) -> str:
    """Run one case with one engine; return a line of figures."""
    name = uuid.uuid4().hex[:8]
    topic, group = f"losses-{case.name}-{name}", f"losses-{name}"
    asyncio.run(prepare(servers, topic))
    notes = directory / f"{engine}-{case.name}.txt"
    worker = Worker(["--worker", engine, case.name, servers, topic, group, str(notes)], notes)
    worker.start()
    for limit in KILL_AT if case.kills else ():
        _wait(worker, limit)
        worker.kill()
        worker.start()
    _wait(worker, None)
    worker.kill()
    noted = worker.noted()
    place = asyncio.run(committed(servers, topic, group)) or 0
    lost = len({f"r{number}" for number in range(place)} - set(noted))
    rest = f", {COUNT - place} never read" if place < COUNT else ""
    return f"{engine:>5}  lost {lost:4} of {place}, repeated {len(noted) - len(set(noted)):4}{rest}"


def _wait(worker: Worker, limit: int | None) -> None:
    """Wait until `limit` records are noted, or until nothing moves."""
    last, since = -1, time.monotonic()
    while True:
        count = len(worker.noted())
        if count != last:
            last, since = count, time.monotonic()
        quiet_s = QUIET_S if last else 3 * QUIET_S
        if (limit is not None and count >= limit) or time.monotonic() - since > quiet_s:
            return
        time.sleep(0.02)


def main() -> None:
    """Run the cases, or be the worker of one."""
    if sys.argv[1:2] == ["--worker"]:
        engine, case, servers, topic, group, path = sys.argv[2:]
        run_worker = stock if engine == "stock" else ours
        logging.basicConfig(level=logging.WARNING)
        asyncio.run(run_worker(case, servers, topic, group, Notes(path, topic)))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--servers", help="host:port of a broker; without, an Apache Kafka of its own")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append", dest="cases")
    parser.add_argument("--keep", type=Path, help="a directory for notes and logs")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = options.servers
        if servers is None:
            kafka = LocalKafka(directory / "kafka")
            stack.callback(kafka.stop)
            servers = kafka.start()
        for case in CASES:
            if options.cases and case.name not in options.cases:
                continue
            print(f"{case.name}: {case.about}", flush=True)
            for number in range(options.rounds):
                notes = directory / f"round-{number}"
                notes.mkdir(parents=True, exist_ok=True)
                for engine in ("stock", "ours"):
                    print(f"  {run(case, engine, servers, notes)}", flush=True)


if __name__ == "__main__":
    main()
