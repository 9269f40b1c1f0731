"""Work that one process does at a time, whatever machine it runs on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from notifyd.store.pool import Database, Transaction

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(%(name)s, 0))"


@contextlib.asynccontextmanager
async def alone(database: Database, name: str) -> AsyncIterator[Transaction | None]:
    """Be the only one with `name` until the block ends; None where another is.

    The lock is the transaction's, so the server takes it back with the connection. Raises
    `TransientError` while the database is away.
    """
    async with database.transaction() as tx:
        await tx.fetch("SET LOCAL idle_in_transaction_session_timeout = 0")
        [(is_ours,)] = await tx.fetch(_LOCK, {"name": name})
        yield tx if is_ours else None
