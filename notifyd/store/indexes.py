"""Indexes of a migration, built beside a living system: CREATE INDEX alone would keep all writers waiting.

What a file creates is built before the file runs, CONCURRENTLY. On a partitioned table that goes for the
partitions one by one; its own CREATE INDEX then finds equal indexes there and attaches them, in a moment.
On a plain table the file says IF NOT EXISTS, and finds it there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from notifyd.errors import ConfigError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.pool import Database

#: As migrations write it; what follows the table's name is taken as it is.
_CREATE: Final = re.compile(
    r"^CREATE (?P<unique>UNIQUE )?INDEX (?P<maybe>IF NOT EXISTS )?(?P<name>\w+)"
    r" ON (?P<table>\w+) (?P<rest>[^;]+);",
    re.MULTILINE,
)
#: The longest name that PostgreSQL keeps whole.
_MAX_NAME: Final = 63
#: A build may take long, on tables of years. It holds nobody up.
_BUILD_LIMIT_S: Final = 24 * 3600.0

#: The tables that hold the rows of one: itself, or its partitions.
_TABLES: Final = """
SELECT relid::text, true FROM pg_partition_tree(to_regclass(%(table)s)) WHERE isleaf
UNION ALL
SELECT %(table)s, false FROM pg_class WHERE oid = to_regclass(%(table)s) AND relkind = 'r'
"""
_IS_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)"

_log = get_logger(component="migrate")


@dataclass(frozen=True, slots=True)
class Index:
    """One CREATE INDEX of a migration."""

    name: str
    table: str
    unique: str
    rest: str
    is_found: bool  # whether the statement is content with one of its name that is there

    def name_on(self, partition: str) -> str:
        """Name the index of one partition, the same each time."""
        name = f"{partition}_{self.name}"
        if len(name) <= _MAX_NAME:
            return name
        return f"{name[: _MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def indexes_of(sql: str) -> Iterator[Index]:
    """Find what a migration's text creates."""
    for match in _CREATE.finditer(sql):
        yield Index(match["name"], match["table"], match["unique"] or "", match["rest"], bool(match["maybe"]))


async def build_ahead(settings: Settings, sql: str) -> None:
    """Build what `sql` is going to create, on tables that are there and have the columns."""
    wanted = list(indexes_of(sql))
    if not wanted:
        return
    patient = settings.model_copy(
        update={"database_statement_timeout_s": _BUILD_LIMIT_S, "database_pool_size": 1}
    )
    database = Database(patient, Metrics(), application="notifyd-migrate")
    await database.start(wait=True)
    try:
        # It waits for whoever began before it, however long; nobody waits for it.
        await database.fetch("SET lock_timeout = 0")
        for index in wanted:
            for table, is_partition in await database.fetch(_TABLES, {"table": index.table}):
                if is_partition:
                    await _build(database, index, table, index.name_on(table))
                elif index.is_found:
                    await _build(database, index, table, index.name)
    finally:
        await database.stop()


async def _build(database: Database, index: Index, table: str, name: str) -> None:
    found = await database.fetch(_IS_VALID, {"name": name})
    if found == [(True,)]:
        return
    if found:  # left by a build that was cut off
        await database.fetch(f"DROP INDEX CONCURRENTLY {name}")
    try:
        await database.fetch(f"CREATE {index.unique}INDEX CONCURRENTLY {name} ON {table} {index.rest}")
    except ConfigError as error:
        # The same file adds what it indexes. That belongs into a later one where the table is large.
        _log.warning("index_not_built_ahead", index=index.name, table=table, error=error.message)
