"""A full store: a page of an inbox, the unread count, the life of a message, a batch of the sweep; and
how much slower `persist` writes into it than into an empty one.

`python -m benchmarks.bench_inbox --rows 10000000 --users 100000`: fills a PostgreSQL of its own (or
`--url`, an empty database, which is kept: `--filled` measures it again), reads at random for a while, and
prints p50 and p99 against their limits. Times are those of the functions of `notifyd.store`, with all
that they do on both sides; what other work the machine has is told beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.inbox_rows import Size, envelope, fill, user_name
from notifyd.dev.postgres import LocalPostgres
from notifyd.message.envelope import Limits, decode, new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.batch import MessageRow, Refused
from notifyd.store.inbox import Filter, read_originals, read_page
from notifyd.store.migrate import migrate
from notifyd.store.persist import PersistStore
from notifyd.store.pool import Database
from notifyd.store.reading import mark_ids, read_unread
from notifyd.store.sql import prepared, query
from notifyd.store.sweep import SweepStore
from notifyd.store.trace import read_life

#: What is read, and its limit for p99 in milliseconds; none: told beside.
LIMITS_MS = {
    "page": 5.0,
    "second page": None,
    "unread page": None,
    "page with messages": None,
    "unread": 1.0,
    "timeline": 2.0,
    "mark read": None,
    "sweep of 500": 20.0,
    "sweep of 500, old": None,
    "put off 500": None,
}
#: Rows that the sweep leases at a time. What is due since days comes first, and lies far apart: told beside.
_SWEEP_ROWS, _OLD_S = 500, 86_400.0
#: How often all of it is leased: one pass has some hundred batches of the last day, too few for a p99.
_SWEEP_PASSES = 6
#: What a pass put off, and the last of it, which were leased alone.
_DUE_AGAIN = (
    "UPDATE delivery SET next_check_at = at, lease_until = NULL"
    " WHERE greatest(next_check_at, lease_until) > now() AND NOT is_final"
)
#: Writing into the full store against an empty one: batches of messages, in turns.
_WRITE_ROUNDS, _WRITE_BATCHES, _WRITE_ROWS = 12, 12, 500
WRITE_RATIO = 0.9
#: Pieces of 16 MB, of files of 1 GB.
_READ_FILES = """
SELECT sum(length(pg_read_binary_file(
           file || CASE WHEN piece < 64 THEN '' ELSE '.' || piece / 64 END,
           (piece % 64) << 24, 1 << 24, true)))
  FROM (SELECT pg_relation_filepath(oid) AS file, pg_relation_size(oid) AS bytes
          FROM pg_class WHERE relkind IN ('r', 'i', 't')) AS relation,
       generate_series(0, bytes >> 24) AS piece
"""
_PREPARED = ("read_user_state", "read_inbox")
_PLANNED = ("read_life", "claim_due")
#: Little for the server itself: what both it and the kernel would hold is missing for the rest.
_SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "1GB", "max_wal_size": "4GB"}


def main() -> int:
    """Fill, read, print; 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="inbox rows (1,000,000)")
    parser.add_argument("--users", type=int, default=10_000, help="users they are spread over (10,000)")
    parser.add_argument("--days", type=int, default=30, help="days they are spread over (30)")
    parser.add_argument("--reads", type=int, default=2000, help="reads of each kind (2,000)")
    parser.add_argument(
        "--url", help="an empty database to use, as a superuser; without it a server is started"
    )
    parser.add_argument("--filled", action="store_true", help="the database at --url was filled before")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="read all files once before: the machine may have taken back much of the kernel's cache",
    )
    parser.add_argument("--plans", action="store_true", help="print the plans of the statements too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    size = Size(options.rows, options.users, options.days)
    if options.url:
        return _run(options.url, size, options)
    directory = Path(tempfile.mkdtemp(prefix="notifyd-bench-"))
    directory.chmod(0o711)
    try:
        with LocalPostgres(directory / "server", options=_SERVER) as server:
            return _run(server.url, size, options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(url: str, size: Size, options: argparse.Namespace) -> int:
    asyncio.run(migrate(Settings(database_url=url)))
    samples = _samples(url) if options.filled else _fill(url, size)
    if options.warm:
        _warm(url)
    print(f"load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}", file=sys.stderr)
    results = asyncio.run(_measure(url, size, samples, options.reads))
    is_good = True
    for name, times in results.items():
        limit = LIMITS_MS[name]
        p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        is_kept = limit is None or p99 <= limit
        is_good = is_good and is_kept
        if options.json:
            facts = {"read": name, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "limit_ms": limit}
            print(json.dumps({**facts, "kept": is_kept}))
        else:
            said = "" if limit is None else f"  limit {limit:g} ms: {'kept' if is_kept else 'NOT KEPT'}"
            print(f"{name:20} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms{said}")
    _settle(url)
    full, empty, ratio = asyncio.run(_compare_writes(url, size))
    is_good = is_good and ratio >= WRITE_RATIO
    if options.json:
        print(json.dumps({"write": "messages/s", "full": round(full), "empty": round(empty), "ratio": ratio}))
    else:
        verdict = "kept" if ratio >= WRITE_RATIO else "NOT KEPT"
        print(
            f"write {full:,.0f} messages/s, empty {empty:,.0f}: {ratio:.2f}  limit {WRITE_RATIO}: {verdict}"
        )
    if options.plans:
        _print_plans(url, size)
    return 0 if is_good else 1


def _fill(url: str, size: Size) -> list[str]:
    began = time.monotonic()
    bar = Progress(
        TextColumn("filling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("filling", total=size.rows)
        samples = fill(url, size, lambda count: bar.advance(task, count))
    print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return samples


def _samples(url: str) -> list[str]:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM message TABLESAMPLE SYSTEM (0.1) LIMIT 20000")
        return [message_id for (message_id,) in cursor.fetchall()]


def _warm(url: str) -> None:
    """Read the files of all tables and indexes: what reads whole tables leaves out their indexes."""
    began = time.monotonic()
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(_READ_FILES)
        [(read,)] = cursor.fetchall()
    print(f"read {read / 1e9:.1f} GB in {time.monotonic() - began:.0f} s", file=sys.stderr)


async def _measure(url: str, size: Size, samples: list[str], reads: int) -> dict[str, list[float]]:
    database = Database(Settings(database_url=url), Metrics())
    await database.start(wait=False)
    rng = random.Random(7)
    results: dict[str, list[float]] = {name: [] for name in LIMITS_MS}

    async def timed(name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        began = time.perf_counter()
        result = await work()
        results[name].append((time.perf_counter() - began) * 1000)
        return result

    unread = Filter(lacks="read")
    for number in range(reads + 50):
        if number == 50:  # the first ones meet cold caches of everything
            for times in results.values():
                times.clear()
        user = user_name(rng.randrange(size.users))
        page = await timed("page", lambda user=user: read_page(database, user, limit=50))
        if page.next is not None:
            await timed(
                "second page",
                lambda user=user, page=page: read_page(database, user, limit=50, before=page.next),
            )
        other = user_name(rng.randrange(size.users))
        await timed("unread page", lambda user=other: read_page(database, user, limit=50, only=unread))
        another = user_name(rng.randrange(size.users))
        await timed("page with messages", lambda user=another: _read_whole(database, user))
        await timed("unread", lambda user=other: read_unread(database, user))
        sample = rng.choice(samples)
        await timed("timeline", lambda sample=sample: read_life(database, sample))
        ids = [one.message_id for one in page.rows[:3]]
        await timed("mark read", lambda user=user, ids=ids: mark_ids(database, user, "read", ids, pod="b"))
    sweep = SweepStore(database)
    for number in range(_SWEEP_PASSES):
        if number:
            _settle(url, _DUE_AGAIN)
        while True:
            began, now_s = time.perf_counter(), time.time()
            found = await sweep.claim_due(int(now_s * 1000), limit=_SWEEP_ROWS, lease_s=3600.0)
            took_ms = (time.perf_counter() - began) * 1000
            if len(found) < _SWEEP_ROWS:
                break
            is_old = min(one.accepted_at_ms for one in found) / 1000 < now_s - _OLD_S
            results["sweep of 500, old" if is_old else "sweep of 500"].append(took_ms)
            # As the role does before it goes on: what stays leased stands in the way of what is due next.
            waits = dict.fromkeys(found, 3600.0)
            await timed("put off 500", lambda waits=waits: sweep.postpone(waits))
    await database.stop()
    return {name: times for name, times in results.items() if times}


def _settle(url: str, *statements: str) -> None:
    """Bring the server to rest: who is measured next shall not pay for what those before left to be done."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True  # VACUUM runs in no transaction
        with connection.cursor() as cursor:
            for statement in (*statements, "VACUUM ANALYZE delivery", "CHECKPOINT"):
                cursor.execute(statement)


async def _compare_writes(url: str, size: Size) -> tuple[float, float, float]:
    """Write into the full store and an empty one, batch by batch in turns, for what else the machine does
    changes by the second: messages a second, and the median of the rounds' ratios.
    """
    name = f"empty_{uuid.uuid4().hex[:8]}"
    admin = psycopg2.connect(url)
    admin.autocommit = True
    cursor = admin.cursor()
    cursor.execute(f"CREATE DATABASE {name}")
    empty_url = f"{url.rpartition('/')[0]}/{name}"
    try:
        await migrate(Settings(database_url=empty_url))
        incarnation, rng = uuid.uuid4().hex, random.Random(7)
        databases = [Database(Settings(database_url=one), Metrics()) for one in (url, empty_url)]
        stores = [PersistStore(one, incarnation, "bench", Metrics()) for one in databases]
        for store in stores:  # connects, and knows the day
            await store.write_messages("messages", 0, 0, 0, [], _refuse)
        rounds = []
        for number in range(_WRITE_ROUNDS + 1):
            took_s = [0.0, 0.0]
            for batch in range(_WRITE_BATCHES):
                start = (number * _WRITE_BATCHES + batch) * _WRITE_ROWS
                rows = _new_rows(size, start, rng)
                for at in (0, 1) if batch % 2 else (1, 0):
                    took_s[at] += await _write(stores[at], start, rows)
            rounds.append(took_s)
        for database in databases:
            await database.stop()
    finally:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()
    rounds = rounds[1:]  # the first round meets cold caches
    full, empty = (
        _WRITE_BATCHES * _WRITE_ROWS / statistics.median(took_s[at] for took_s in rounds) for at in (0, 1)
    )
    return full, empty, round(statistics.median(empty_s / full_s for full_s, empty_s in rounds), 3)


def _new_rows(size: Size, start: int, rng: random.Random) -> list[MessageRow]:
    limits, now_ms = Limits(), int(time.time() * 1000)
    values = [envelope(new_id(), user_name(rng.randrange(size.users)), now_ms) for _ in range(_WRITE_ROWS)]
    return [
        MessageRow(decode(value, timestamp_ms=now_ms, limits=limits), 0, start + n)
        for n, value in enumerate(values)
    ]


async def _write(store: PersistStore, start: int, rows: Sequence[MessageRow]) -> float:
    """Write a batch; return how long it took (s)."""
    began = time.perf_counter()
    written = await store.write_messages("messages", 0, start, start + len(rows), rows, _refuse)
    took_s = time.perf_counter() - began
    if written.messages != len(rows):
        raise RuntimeError(f"{written} of {len(rows)} messages")
    return took_s


async def _refuse(refused: Sequence[Refused]) -> None:
    raise RuntimeError(f"refused: {refused[0].error}")


async def _read_whole(database: Database, user: str) -> None:
    page = await read_page(database, user, limit=50)
    await read_originals(database, page.rows)


def _print_plans(url: str, size: Size) -> None:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SET random_page_cost = 1.1; SET jit = off; SET plan_cache_mode = force_generic_plan;"
            "SELECT current_date - n FROM generate_series(0, 5) n"
        )
        days = [str(day) for (day,) in cursor.fetchall()]
        params = {
            "user": user_name(size.users // 2), "days": days, "first_day": days[-1], "last_day": days[0],
            "before_at": "9999-12-31", "before_id": "ffffffff-ffff-ffff-ffff-ffffffffffff", "limit": 51,
            "is_archived": False, "lacks": "",
        }  # fmt: skip
        cursor.execute(
            "SELECT id::text, day::text FROM message ORDER BY accepted_at DESC OFFSET 100000 LIMIT 1"
        )
        [(message_id, day)] = cursor.fetchall()
        params |= {"id": message_id, "day": day, "horizon": int(time.time() * 1000)}
        for name in (*_PREPARED, *_PLANNED):
            if name == "read_life":  # from here on it is about a message, of whichever user
                params |= {"limit": _SWEEP_ROWS, "user": None}
            statement, values = query(name), params
            if name in _PREPARED:
                cursor.execute(prepared(name).prepare)
                statement, values = prepared(name).execute, prepared(name).values(params)
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + statement, values)
            print(f"\n{name}.sql", *(line for (line,) in cursor.fetchall()), sep="\n")
            connection.commit()


if __name__ == "__main__":
    sys.exit(main())
