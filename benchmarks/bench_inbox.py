"""Reads of a full store: a page of an inbox, the unread count, the life of a message.

`python -m benchmarks.bench_inbox --rows 10000000 --users 100000`: fills a PostgreSQL of its own (or
`--url`, an empty database), reads at random for a while, and prints p50 and p99 against their limits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.inbox_rows import Size, fill, user_name
from notifyd.dev.postgres import LocalPostgres
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.inbox import Filter, read_originals, read_page
from notifyd.store.migrate import migrate
from notifyd.store.pool import Database
from notifyd.store.reading import mark_ids, read_unread
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
}
_SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "1GB", "max_wal_size": "4GB"}


def main() -> int:
    """Fill, read, print; 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="inbox rows (1,000,000)")
    parser.add_argument("--users", type=int, default=10_000, help="users they are spread over (10,000)")
    parser.add_argument("--days", type=int, default=30, help="days they are spread over (30)")
    parser.add_argument("--reads", type=int, default=2000, help="reads of each kind (2,000)")
    parser.add_argument("--url", help="an empty database to use; without it a server is started")
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
    if options.plans:
        _print_plans(url, size)
    return 0 if is_good else 1


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
    await database.stop()
    return results


async def _read_whole(database: Database, user: str) -> None:
    page = await read_page(database, user, limit=50)
    await read_originals(database, page.rows)


def _print_plans(url: str, size: Size) -> None:
    from notifyd.store.sql import query

    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SET random_page_cost = 1.1; SET jit = off; SELECT current_date - n FROM generate_series(0, 5) n"
        )
        days = [str(day) for (day,) in cursor.fetchall()]
        params = {
            "user": user_name(size.users // 2), "days": days, "before_at": "9999-12-31", "limit": 51,
            "before_id": "ffffffff-ffff-ffff-ffff-ffffffffffff", "is_archived": False, "lacks": "",
            "type": None,
        }  # fmt: skip
        for name in ("read_user_state", "read_inbox"):
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS) " + query(name), params)
            print(f"\n{name}.sql", *(line for (line,) in cursor.fetchall()), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
