"""Migrations: once, by one of many, and never silently another thing than was released."""

from __future__ import annotations

import asyncio

import psycopg2
import pytest

from notifyd.errors import ConfigError
from notifyd.settings import Settings
from notifyd.store import migrate as migrations
from notifyd.store.migrate import all_migrations, migrate, pending_migrations
from tests.fixtures.postgres import run_sql
from tests.fixtures.store import open_database


async def test_many_starters_at_once_apply_each_migration_once(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    titles = [migration.title for migration in all_migrations()]
    assert await pending_migrations(settings) == titles
    done = await asyncio.gather(*(migrate(settings) for _ in range(6)))
    assert sorted(title for one in done for title in one) == titles
    assert await pending_migrations(settings) == []
    async with open_database(database_url) as database:
        # Today's partitions are there before the first message is.
        assert (await database.fetch("SELECT count(*) FROM pg_inherits"))[0][0] > 0


async def test_an_applied_file_that_was_changed_is_refused(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    await migrate(settings)
    run_sql(database_url, "UPDATE schema_migration SET checksum = 'other'")
    with pytest.raises(ConfigError, match="was changed after it was applied"):
        await migrate(settings)


async def test_a_newer_schema_is_left_alone_so_that_a_rollback_survives(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    await migrate(settings)
    run_sql(database_url, "INSERT INTO schema_migration VALUES (9999, 'later', 'x')")
    assert await migrate(settings) == []


async def test_a_migration_that_fails_leaves_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=database_url)
    broken = migrations.Migration(9998, "broken", "CREATE TABLE half (n int); SELECT 1/0", "x")
    monkeypatch.setattr(migrations, "all_migrations", lambda: [*all_migrations(), broken])
    with pytest.raises(Exception, match="division by zero"):
        await migrate(settings)
    monkeypatch.undo()
    async with open_database(database_url) as database:
        assert await database.fetch("SELECT to_regclass('half')") == [(None,)]
    assert await migrate(settings) == []


async def test_a_lock_of_a_living_system_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=database_url)
    await migrate(settings)
    later = migrations.Migration(9998, "later", "ALTER TABLE user_state ADD COLUMN n int", "x")
    monkeypatch.setattr(migrations, "all_migrations", lambda: [*all_migrations(), later])
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "50ms")
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM user_state")  # an open transaction holds the table
        work = asyncio.create_task(migrate(settings))
        await asyncio.sleep(0.3)
        assert not work.done()
    connection.rollback()
    connection.close()
    assert await work == ["9998_later"]
