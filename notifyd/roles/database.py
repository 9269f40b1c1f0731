"""How a role waits for its database."""

from __future__ import annotations

import asyncio

from notifyd.errors import TransientError
from notifyd.store.migrate import require_schema
from notifyd.store.pool import Database
from notifyd.stream.clients import backoff_s


async def start_database(database: Database) -> None:
    """Open the pool once the database answers. Raises `ConfigError` where its schema is not ours."""
    while True:
        await database.start(wait=True)
        try:
            await require_schema(database)
            return
        except TransientError:  # gone again; the next start says so and waits
            await asyncio.sleep(backoff_s(0))
