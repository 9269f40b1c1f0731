"""From Kafka to committed rows against `\\copy` of the same rows.

What is compared, in turn, each time on a new database with the same schema and indexes, with the
server's own durability (`fsync`, `synchronous_commit`):

- `copy`: one connection, the rows that `persist` itself had written (message, delivery, inbox, user_state)
  as `COPY ... FROM STDIN`, what psql's `\\copy` sends; a transaction for every 1,000 messages, as there.
- `copy at once`: the same in one transaction, one COPY for each table.
- `one connection`, `two connections`: a process of role `persist` with NOTIFYD_DATABASE_POOL_SIZE of 1 and 2
  works off a backlog in four partitions, from its first committed batch to its last. It reads, decodes,
  judges, writes rows and counters and moves the marks; nothing of it is left out.
- `store, one connection`, `store, two connections`: the same batches, read and decoded before, by what that
  role writes them with. It tells how connections scale where the broker and the decoding take no core.

Rates are messages a second; each message is three rows and moves a counter. Beside them stands what a
message costs in CPU (of the server's processes for the connections, and of `persist`): where other work is
on the machine rates suffer from it, and that ratio less so.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.harness import Ratio, gather
from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.kafka import LocalKafka, find_jars
from notifyd.dev.postgres import LocalPostgres
from notifyd.message.envelope import Limits, decode
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.batch import MessageRow, Refused
from notifyd.store.persist import PersistStore
from notifyd.store.pool import Database

MESSAGES = 100_000
USERS = 10_000
PARTITIONS = 4
#: Half of NOTIFYD_KAFKA_WINDOW_RECORDS: what `persist` commits at a time, and so what `copy` does.
BATCH = 1000
_SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
_SESSION = "SET jit = off; SET timezone = 'UTC'; SET synchronous_commit = on"
_POOL_SIZES = {"one connection": 1, "two connections": 2}
_STORE_POOL_SIZES = {f"store, {name}": size for name, size in _POOL_SIZES.items()}

RATIOS = (
    Ratio("Kafka to committed rows, one connection / copy", "one connection", "copy", 0.6),
    Ratio("the same / copy at once", "one connection", "copy at once", 0.6),
    Ratio("two connections / one", "two connections", "one connection", 1.3),
    Ratio("two connections / one, the store alone", "store, two connections", "store, one connection", 1.3),
    Ratio("CPU of the server, copy / one connection", "copy, server", "one connection, server", 0.6),
)
UNITS = {
    **dict.fromkeys(("copy", "copy at once", *_POOL_SIZES, *_STORE_POOL_SIZES), "messages/s"),
    **{f"{name}, server": "us of CPU" for name in ("copy", "copy at once", *_POOL_SIZES)},
    **{f"{name}, persist": "us of CPU" for name in _POOL_SIZES},
}

#: The rows of so many messages of a partition from an offset on, as `persist` orders them.
_ROWS = {
    "message": "SELECT {columns} FROM message AS r WHERE {place} ORDER BY id",
    "delivery": "SELECT {columns} FROM delivery AS r JOIN (SELECT id, day FROM message WHERE {place}) AS m"
    " ON m.id = r.message_id AND m.day = r.day ORDER BY message_id, user_id, channel",
    "inbox": "SELECT {columns} FROM inbox AS r WHERE {place} ORDER BY user_id, message_id",
}
_PLACE = "kafka_partition = {partition} AND kafka_offset >= {first} AND kafka_offset < {first} + {count}"

Rows = dict[str, str]


class Surroundings:
    """A broker and a server, and in it a database with the schema for others to be copied from."""

    def __init__(self, servers: str, database_url: str, folder: Path) -> None:
        self.servers = servers
        self._folder = folder
        self._server_url = database_url.rpartition("/")[0]
        self.template_url = self.new_database("")
        self.values = _values()
        self._notifyd("migrate", env=self._env("", self.template_url, 1))

    def new_database(self, how: str = "migrated") -> str:
        """Make a database: of the schema, or an empty one; return its URL."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        template = f" TEMPLATE {self.template_url.rpartition('/')[2]}" if how else ""
        self._run_sql(f"CREATE DATABASE {name}{template}", "CHECKPOINT")
        return f"{self._server_url}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop one that is of no use any more."""
        self._run_sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def persist(self, pool_size: int, url: str) -> tuple[float, float, float]:
        """Let a process of role `persist` work off all messages into this database.

        Returns messages a second, and the CPU of a message in us: of the server, of the process.
        """
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        env = self._env(prefix, url, pool_size)
        self._notifyd("topics", "create", env=env)
        asyncio.run(_fill(self.servers, f"{prefix}messages", self.values))
        log = self._folder / "persist.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "notifyd", "--role=persist"], env=env, stdout=file, stderr=file
            )
        try:
            return _watch(url, process, log)
        finally:
            process.terminate()
            process.wait(60)

    def _env(self, prefix: str, url: str, pool_size: int) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFYD_")}
        return {
            **kept,
            "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "NOTIFYD_KAFKA_SESSION_TIMEOUT_S": "6",
            "NOTIFYD_TOPIC_PREFIX": prefix or "none.",
            "NOTIFYD_TOPIC_PARTITIONS": str(PARTITIONS),
            "NOTIFYD_TOPIC_REPLICATION": "1",
            "NOTIFYD_DATABASE_URL": url,
            "NOTIFYD_DATABASE_POOL_SIZE": str(pool_size),
            "NOTIFYD_ADMIN_PORT": "0",
            "NOTIFYD_HTTP_PORT": "0",
        }

    def _notifyd(self, *args: str, env: Mapping[str, str]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "notifyd", *args], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"notifyd {' '.join(args)}: {done.stderr.strip()[-800:]}")

    def _run_sql(self, *statements: str) -> None:
        with closing(psycopg2.connect(f"{self._server_url}/postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)


def run(rounds: int) -> Iterator[dict[str, object]]:
    """Run all on Apache Kafka where `make kafka` fetched it, else on the embedded broker."""
    folder = Path(tempfile.mkdtemp(prefix="notifyd-bench-"))
    folder.chmod(0o711)
    broker = (LocalKafka if find_jars() else EmbeddedBroker)(folder / "broker")
    try:
        with LocalPostgres(folder / "postgres", options=_SERVER) as server:
            yield _compare(Surroundings(broker.start(), server.url, folder), rounds)
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _compare(here: Surroundings, rounds: int) -> dict[str, object]:
    url = here.new_database()
    here.persist(2, url)
    parts, states = _rows_of(url)
    here.drop_database(url)
    whole = {table: "".join(part[table] for part in parts) for table in _ROWS}

    def measure(name: str) -> dict[str, float]:
        url = here.new_database()
        try:
            if name in _POOL_SIZES:
                rate, server_us, persist_us = here.persist(_POOL_SIZES[name], url)
                return {name: rate, f"{name}, server": server_us, f"{name}, persist": persist_us}
            if name in _STORE_POOL_SIZES:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    return {name: runner.run(_store(url, _STORE_POOL_SIZES[name], here.values))}
            rate, server_us = _copy(url, [whole] if name == "copy at once" else parts, states)
            return {name: rate, f"{name}, server": server_us}
        finally:
            here.drop_database(url)

    names = ("copy", *_POOL_SIZES, *_STORE_POOL_SIZES, "copy at once")
    return gather("persist", names, measure, RATIOS, rounds=rounds, unit=UNITS)


# Messages


def _values() -> list[bytes]:
    """Make the envelopes, with 392 bytes each and one recipient, as an order system would send them."""
    rng = random.Random(7)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [
        json.dumps(
            {
                "from": "orders",
                "UUID": new_id(),
                "content": {
                    "version": 1.1,
                    "type": "order.shipped",
                    "title": "On its way",
                    "body": "x" * 120,
                    "data": {"order": rng.randrange(10**9), "carrier": "dhl"},
                },
                "toUserIds": [f"user-{rng.randrange(USERS):07d}"],
                "createBy": "orders-svc",
                "createDateTime": now,
            }
        ).encode()
        for _ in range(MESSAGES)
    ]


async def _fill(servers: str, topic: str, values: Sequence[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=20, max_batch_size=256 * 1024)
    await producer.start()
    sent = [
        await producer.send(topic, value, partition=number % PARTITIONS)
        for number, value in enumerate(values)
    ]
    await asyncio.gather(*sent)
    await producer.stop()


# Rates


def _watch(url: str, process: subprocess.Popen[bytes], log: Path) -> tuple[float, float, float]:
    """Read the marks until all is written; figures as of `persist`, from the first that was seen."""
    began: tuple[float, int, float, float] | None = None
    deadline = time.monotonic() + 180
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while time.monotonic() < deadline and process.poll() is None:
            cursor.execute("SELECT coalesce(sum(next_offset), 0) FROM partition_mark")
            now, count = time.perf_counter(), int(_one(cursor))
            if count and began is None:
                began = now, count, _server_cpu_s(cursor), _cpu_s(process.pid)
            if count >= MESSAGES and began is not None:
                server_s, persist_s = _server_cpu_s(cursor) - began[2], _cpu_s(process.pid) - began[3]
                cursor.execute("SELECT count(*) FROM message JOIN inbox ON id = message_id")
                if (written := _one(cursor)) != MESSAGES:
                    raise RuntimeError(f"{written} of {MESSAGES} messages are there")
                done = count - began[1]
                return done / (now - began[0]), server_s / done * 1e6, persist_s / done * 1e6
            time.sleep(0.02)
    raise RuntimeError(f"persist did not come to an end: {log.read_text()[-800:]}")


async def _store(url: str, pool_size: int, values: Sequence[bytes]) -> float:
    """Write all messages, decoded before, as the role does: messages a second."""
    now_ms, limits = int(time.time() * 1000), Limits()
    rows: list[list[MessageRow]] = [[] for _ in range(PARTITIONS)]
    for number, value in enumerate(values):
        partition = number % PARTITIONS
        message = decode(value, timestamp_ms=now_ms, limits=limits)
        message.content  # noqa: B018  read once, and kept
        rows[partition].append(MessageRow(message, partition, len(rows[partition])))
    database = Database(Settings(database_url=url, database_pool_size=pool_size), Metrics())
    store = PersistStore(database, uuid.uuid4().hex, "bench", Metrics())
    turns = asyncio.Semaphore(pool_size + 1)

    async def write(partition: int, first: int, end: int) -> None:
        async with turns:
            batch = rows[partition][first:end]
            written = await store.write_messages("messages", partition, first, end, batch, _refuse)
            if written.messages != len(batch):
                raise RuntimeError(f"{written} of {len(batch)} messages")

    async def work_off(partition: int) -> None:
        for first in range(BATCH, len(rows[partition]), BATCH):
            await write(partition, first, first + BATCH)

    # The first ones connect, make the day and the marks.
    await asyncio.gather(*(write(partition, 0, BATCH) for partition in range(PARTITIONS)))
    began = time.perf_counter()
    await asyncio.gather(*(work_off(partition) for partition in range(PARTITIONS)))
    took_s = time.perf_counter() - began
    await database.stop()
    return (len(values) - PARTITIONS * BATCH) / took_s


async def _refuse(refused: Sequence[Refused]) -> None:
    raise RuntimeError(f"refused: {refused[0].error}")


def _copy(url: str, parts: Sequence[Rows], states: Rows) -> tuple[float, float]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_SESSION)
        columns = {table: _columns(cursor, table) for table in (*_ROWS, "user_state")}
        connection.commit()
        began, used_s = time.perf_counter(), _cpu_s(connection.info.backend_pid)
        for part in (*parts, states):
            for table, text in part.items():
                cursor.copy_expert(f"COPY {table} ({columns[table]}) FROM STDIN", io.StringIO(text))
            connection.commit()
        took_s = time.perf_counter() - began
        return MESSAGES / took_s, (_cpu_s(connection.info.backend_pid) - used_s) / MESSAGES * 1e6


def _server_cpu_s(cursor: Any) -> float:
    """Return what the connections of `persist` have used; it keeps those that it has opened."""
    cursor.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'notifyd'"
    )
    return sum(_cpu_s(pid) for (pid,) in cursor.fetchall())


def _cpu_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def _rows_of(url: str) -> tuple[list[Rows], Rows]:
    """Read what was written, as COPY gives it: one item for each transaction; and the counters."""
    parts: list[Rows] = []
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        # For this alone: to read each part would be to read the whole table otherwise.
        cursor.execute(
            "CREATE INDEX ON message (kafka_offset); CREATE INDEX ON inbox (kafka_offset); ANALYZE"
        )
        for first in range(0, MESSAGES // PARTITIONS, BATCH):
            for partition in range(PARTITIONS):
                place = _PLACE.format(partition=partition, first=first, count=BATCH)
                part = {}
                for table, rows in _ROWS.items():
                    columns = ", ".join(f"r.{name}" for name in _columns(cursor, table).split(", "))
                    part[table] = _copied(cursor, rows.format(columns=columns, place=place))
                parts.append(part)
        states = f"SELECT {_columns(cursor, 'user_state')} FROM user_state"
        return parts, {"user_state": _copied(cursor, states)}


def _copied(cursor: Any, rows: str) -> str:
    text = io.StringIO()
    cursor.copy_expert(f"COPY ({rows}) TO STDOUT", text)
    return text.getvalue()


def _columns(cursor: Any, table: str) -> str:
    cursor.execute(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        (table,),
    )
    return str(_one(cursor))


def _one(cursor: Any) -> Any:
    [value] = cursor.fetchone()
    return value
