"""What an operator's questions and the privacy commands take on a full store.

`python -m benchmarks.bench_trace --rows 1000000`: fills a PostgreSQL of its own (or `--url`, an empty
database), asks each question some times, forgets users, and encrypts everything; prints a line per figure.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.inbox_rows import Size, fill, user_name
from notifyd.content_keys import new_content_key
from notifyd.dev.postgres import LocalPostgres
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.deliveries import find_slowest, find_stuck, read_user_messages
from notifyd.store.forget import forget
from notifyd.store.migrate import migrate
from notifyd.store.pool import Database
from notifyd.store.rotation import rotate
from notifyd.store.trace import read_life

_SERVER = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "1GB", "max_wal_size": "4GB"}


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="inbox rows (300,000)")
    parser.add_argument("--users", type=int, default=10_000, help="users they are spread over (10,000)")
    parser.add_argument("--days", type=int, default=10, help="days they are spread over (10)")
    parser.add_argument("--url", help="an empty database to use; without it a server is started")
    options = parser.parse_args()
    size = Size(options.rows, options.users, options.days)
    if options.url:
        _run(options.url, size)
        return
    directory = Path(tempfile.mkdtemp(prefix="notifyd-bench-"))
    directory.chmod(0o711)
    try:
        with LocalPostgres(directory / "server", options=_SERVER) as server:
            _run(server.url, size)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(url: str, size: Size) -> None:
    asyncio.run(migrate(Settings(database_url=url)))
    began = time.monotonic()
    samples = fill(url, size, lambda count: None)
    _show(f"fill of {size.rows:,} messages", time.monotonic() - began, "s")
    asyncio.run(_measure(url, size, samples))


async def _measure(url: str, size: Size, samples: list[str]) -> None:
    keys = new_content_key("bench")
    rng = random.Random(3)
    database = Database(Settings(database_url=url, content_keys=keys), Metrics())
    await database.start(wait=False)
    since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=24)

    async def ask(name: str, times: int, work: Callable[[], Awaitable[Any]]) -> None:
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            await work()
            spent.append((time.perf_counter() - began) * 1000)
        _show(f"{name}, median", statistics.median(spent), "ms")
        _show(f"{name}, the slowest of {times}", max(spent), "ms")

    await ask("life of a message", 200, lambda: read_life(database, rng.choice(samples)))
    await ask(
        "messages of a user",
        200,
        lambda: read_user_messages(database, user_name(rng.randrange(size.users)), limit=20, budget_s=10),
    )
    await ask("stuck", 20, lambda: find_stuck(database, silent_s=300, limit=20))
    await ask("slowest of a day", 5, lambda: find_slowest(database, since=since, limit=20))
    await ask(
        "forget a user", 5, lambda: forget(database, user_name(rng.randrange(size.users)), actor="bench")
    )
    began = time.monotonic()
    done = await rotate(database)
    _show("encrypted", done.sealed / (time.monotonic() - began), "messages/s")
    await ask("life of an encrypted message", 200, lambda: read_life(database, rng.choice(samples)))
    await database.stop()


def _show(what: str, value: float, unit: str) -> None:
    print(f"{what:<40} {value:>12,.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
