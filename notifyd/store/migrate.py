"""Migrations: numbered SQL files, forward only, each in a transaction of its own.

Many pods may start at once: one works, the others wait for it. A lock that a living system holds
is waited for briefly and asked for again, so that nothing queues up behind a migration; indexes are built
beside the system, before the file that creates them is run.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Final

from notifyd.errors import ConfigError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.indexes import build_ahead
from notifyd.store.pool import Database, Transaction

#: Any fixed number that no other program takes: "notifyd" in ASCII.
_LOCK: Final = 0x6E6F7469667964
_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
#: Who waits for a table keeps all others waiting behind, so it is asked for briefly, and often.
_LOCK_TIMEOUT: Final = "1s"
#: Attempts for one migration that finds tables locked: about 5 minutes.
_ATTEMPTS: Final = 200
#: Attempts between two lines that say so.
_TELL_EVERY: Final = 20

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

_log = get_logger(component="migrate")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, statements, and the SHA-256 of its text in hex."""

    number: int
    name: str
    sql: str
    checksum: str

    @property
    def title(self) -> str:
        """The file's name without its ending, e.g. `0001_schema`."""
        return f"{self.number:04d}_{self.name}"


def all_migrations() -> list[Migration]:
    """Read the migrations of this release, in order."""
    found = []
    for file in resources.files("notifyd.store").joinpath("migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is not None:
            sql = file.read_text(encoding="utf-8")
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            found.append(Migration(int(match[1]), match[2], sql, checksum))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(settings: Settings, on_progress: Callable[[str], None] | None = None) -> list[str]:
    """Apply what is pending and return the titles of it; `on_progress` is told each before it starts.

    Waits for a database that is not there yet. Raises `ConfigError` when an applied file was
    changed since, `TransientError` when a lock cannot be had.
    """
    database = Database(settings, Metrics(), application="notifyd-migrate")
    await database.start(wait=True)
    try:
        done: list[str] = []
        while (title := await _apply_next(database, settings, on_progress)) is not None:
            done.append(title)
        await database.fetch("SELECT ensure_day(current_date), ensure_day(current_date + 1)")
        return done
    finally:
        await database.stop()


async def pending_migrations(settings: Settings) -> list[str]:
    """Return the titles of what `migrate` would apply; checks the applied ones as it does."""
    database = Database(settings, Metrics(), application="notifyd-migrate")
    await database.start(wait=True)
    try:
        async with database.transaction() as tx:
            return [migration.title for migration in await _pending(tx)]
    finally:
        await database.stop()


async def require_schema(database: Database) -> None:
    """Raise `ConfigError` where this release needs migrations that were not applied yet."""
    async with database.transaction() as tx:
        pending = await _pending(tx)
    if pending:
        raise ConfigError(
            f"{database.where} lacks the migrations {', '.join(one.title for one in pending)}",
            reason="database_schema",
            remedy="run `notifyd migrate`; NOTIFYD_DATABASE_URL names the database",
        )


async def _apply_next(
    database: Database, settings: Settings, on_progress: Callable[[str], None] | None
) -> str | None:
    attempt, is_told = 1, False
    while True:
        try:
            async with database.transaction() as tx:
                # One at a time, over all pods: the lock ends with the transaction, however that ends. It is
                # not waited for: an index that is being built waits for every statement that began before.
                await tx.fetch(
                    f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0;"
                    "SET LOCAL idle_in_transaction_session_timeout = 0"
                )
                [(is_ours,)] = await tx.fetch("SELECT pg_try_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
                pending = await _pending(tx)
                if not pending:
                    return None
                if is_ours:
                    migration = pending[0]
                    if on_progress is not None and attempt == 1:
                        on_progress(migration.title)
                    await build_ahead(settings, migration.sql)
                    await _apply(tx, migration)
        except TransientError as error:
            if attempt == _ATTEMPTS:
                raise
            if attempt % _TELL_EVERY == 1:
                _log.warning("migration_waits", attempt=attempt, reason=error.reason, error=error.message)
            attempt += 1
        else:
            if is_ours:
                return migration.title
            if not is_told:
                is_told = True
                _log.info("migration_waits", reason="another_migrates", pending=len(pending))
        await asyncio.sleep(random.uniform(0.2, 1.0))


async def _apply(tx: Transaction, migration: Migration) -> None:
    await tx.fetch(_TABLE)
    await tx.fetch(migration.sql)
    await tx.fetch(
        "INSERT INTO schema_migration (number, name, checksum) VALUES (%(number)s, %(name)s, %(checksum)s)",
        {"number": migration.number, "name": migration.name, "checksum": migration.checksum},
    )


async def _pending(tx: Transaction) -> list[Migration]:
    [(table,)] = await tx.fetch("SELECT to_regclass('schema_migration')::text")
    rows = await tx.fetch("SELECT number, checksum FROM schema_migration") if table else []
    applied: dict[int, str] = dict(rows)
    pending = []
    for migration in all_migrations():
        checksum = applied.get(migration.number)
        if checksum is None:
            pending.append(migration)
        elif checksum != migration.checksum:
            raise ConfigError(
                f"migration {migration.title} was changed after it was applied",
                reason="migration_changed",
                remedy="restore the file as it was released, and put the change into a new migration",
            )
    if pending and applied and pending[0].number < max(applied):
        raise ConfigError(
            f"migration {pending[0].title} comes before the last that was applied ({max(applied):04d})",
            reason="migration_order",
            remedy="give it the next free number",
        )
    return pending
