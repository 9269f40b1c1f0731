"""k8s/access/postgres.sql: each account may do its work in the database, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from notifyd.settings import Settings
from notifyd.store.migrate import migrate, pending_migrations
from tests.fixtures.manifests import K8S
from tests.fixtures.postgres import run_sql
from tests.fixtures.store import envelope, open_store, random_id, row

Account = Callable[[str], str]


@pytest.fixture
def account(database_url: str) -> Iterator[Account]:
    """Give accounts to an empty database; returns the URL of one by its name."""
    script = (K8S / "access/postgres.sql").read_text()
    names = ("owner", "persist", "sweep", "api", "ws")
    # Twice, for it says that it may be repeated.
    run_sql(database_url, script, script, *(f"ALTER ROLE notifyd_{name} PASSWORD 'secret'" for name in names))

    def url_of(name: str) -> str:
        parts = urlsplit(database_url)
        return urlunsplit(parts._replace(netloc=f"notifyd_{name}:secret@{parts.hostname}:{parts.port}"))

    yield url_of
    run_sql(database_url, "DROP SCHEMA public CASCADE")


async def test_the_owner_migrates_and_persist_stores_on_a_day_without_partitions(account: Account) -> None:
    await migrate(Settings(database_url=account("owner")))
    assert await pending_migrations(Settings(database_url=account("persist"))) == []
    # Migrating makes today's and tomorrow's; `persist` owns no table that it could attach a partition to.
    earlier = datetime.now(UTC) - timedelta(days=20)
    value = envelope(random_id(), created=earlier.isoformat())
    async with open_store(account("persist")) as store:
        await store.messages([row(value, 0, timestamp_ms=int(earlier.timestamp() * 1000))])
        assert store.refused == []
        assert await store.fetch("SELECT day FROM message") == [(earlier.date(),)]
    run_sql(account("ws"), "SELECT count(*) FROM message JOIN inbox USING (day)")


async def test_no_account_goes_beyond_its_work(account: Account) -> None:
    await migrate(Settings(database_url=account("owner")))
    for name, statement in (
        ("ws", "UPDATE inbox SET user_id = 'mallory'"),
        ("api", "DROP TABLE inbox"),
        ("sweep", "CREATE TABLE mine (id int)"),
        ("persist", "ALTER TABLE message ADD COLUMN mine int"),
        ("persist", "TRUNCATE message"),
        # One that could stand in for ours where a function of the owner's looks for it.
        ("persist", "CREATE TEMP TABLE message (mine int)"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            run_sql(account(name), statement)
