"""Migrations: once, by one of many, and never silently another thing than was released."""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import replace

import psycopg2
import pytest

from notifyd.errors import ConfigError
from notifyd.settings import Settings
from notifyd.store import migrate as migrations
from notifyd.store.indexes import indexes_of
from notifyd.store.migrate import all_migrations, migrate, pending_migrations
from notifyd.store.reading import mark_ids, read_unread
from notifyd.store.verify import verify_inboxes
from tests.fixtures.inbox import ago, all_pages, assert_counters_are_right, put
from tests.fixtures.postgres import run_sql
from tests.fixtures.store import MESSAGES, Store, envelope, open_database, random_id, row
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.each_postgres


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


async def _at_an_old_schema(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, later: str
) -> list[migrations.Migration]:
    """Migrate to what there is now, and let the next release bring `later`."""
    await migrate(settings)
    known = all_migrations()
    monkeypatch.setattr(
        migrations, "all_migrations", lambda: [*known, migrations.Migration(9998, "later", later, "x")]
    )
    return known


async def test_an_index_is_built_while_others_write(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=migrated_database_url)
    # Whoever waits for a lock for a second gives up; the index takes three, 10 ms a row.
    async with open_database(migrated_database_url, database_statement_timeout_s=2) as database:
        store = Store(database)
        await store.messages([row(envelope(to=["alice"]), n) for n in range(300)])
        await store.fetch(
            "CREATE FUNCTION slowly(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
            " 'BEGIN PERFORM pg_sleep(0.01); RETURN $1; END'"
        )
        await _at_an_old_schema(settings, monkeypatch, "CREATE INDEX inbox_slow ON inbox (slowly(user_id));")
        work = asyncio.create_task(migrate(settings))
        building = "SELECT 1 FROM pg_stat_progress_create_index WHERE relid = ANY(ARRAY(SELECT relid FROM"
        building += " pg_partition_tree('inbox'))) AND phase LIKE 'building%%'"
        await eventually(lambda: store.fetch(building), what="the build to begin")
        offset = 300
        while not work.done():
            await store.messages([row(envelope(to=["alice"]), offset)])
            offset += 1
        assert await work == ["9998_later"]
        assert offset > 301
        # That of each partition is the one that was built ahead, and no second one.
        found = await store.fetch(
            "SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'inbox_slow'::regclass"
        )
        assert found
        assert all(name.endswith("_inbox_slow") for (name,) in found)


async def test_an_index_that_was_cut_off_is_built_anew(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=migrated_database_url)
    async with open_database(migrated_database_url) as database:
        [(partition,)] = await database.fetch(
            "SELECT relid::text FROM pg_partition_tree('message') WHERE isleaf ORDER BY 1 LIMIT 1"
        )
        name = f"{partition}_message_later"
        run_sql(
            migrated_database_url,
            f"CREATE INDEX {name} ON {partition} (sender)",
            f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass",
        )
        sql = (
            "CREATE INDEX message_later ON message (sender);\n"
            "CREATE INDEX IF NOT EXISTS u ON user_state (unread);\n"
            "CREATE INDEX w ON user_state (changed_at);"
        )
        await _at_an_old_schema(settings, monkeypatch, sql)
        assert await migrate(settings) == ["9998_later"]
        invalid = await database.fetch("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
        assert invalid == []


async def test_an_index_of_what_the_same_file_adds_is_left_to_the_file(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=migrated_database_url)
    sql = "ALTER TABLE message ADD COLUMN n int;\nCREATE INDEX message_n ON message (n);"
    await _at_an_old_schema(settings, monkeypatch, sql)
    assert await migrate(settings) == ["9998_later"]
    assert await pending_migrations(settings) == []


async def test_a_check_beside_a_migration_that_is_under_way_says_pending_and_waits_for_nobody(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=migrated_database_url)
    await _at_an_old_schema(
        settings, monkeypatch, "ALTER TABLE user_state ADD COLUMN n int; SELECT pg_sleep(60);"
    )
    work = asyncio.create_task(migrate(settings))
    async with open_database(migrated_database_url, database_statement_timeout_s=5) as database:
        at_work = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
        await eventually(lambda: database.fetch(at_work), what="the migration to be at work")
        assert await pending_migrations(settings) == ["9998_later"]
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


_TABLES = [
    "incarnation",
    "message",
    "message_id",
    "inbox",
    "delivery",
    "message_event",
    "early_event",
    "user_state",
    "partition_mark",
]


def _copy_rows(source_url: str, target_url: str) -> None:
    """Copy all rows, of each table the columns that the target's schema has."""
    with contextlib.ExitStack() as stack:
        source, target = (
            stack.enter_context(contextlib.closing(psycopg2.connect(url))) for url in (source_url, target_url)
        )
        reader, writer = source.cursor(), target.cursor()
        reader.execute("SELECT DISTINCT day FROM message")
        for (day,) in reader.fetchall():
            writer.execute("SELECT ensure_day(%s)", (day,))
        for table in _TABLES:
            writer.execute(
                "SELECT string_agg(attname, ',') FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                (table,),
            )
            [(columns,)] = writer.fetchall()
            rows = io.StringIO()
            reader.copy_expert(f"COPY (SELECT {columns} FROM {table}) TO STDOUT", rows)
            rows.seek(0)
            writer.copy_expert(f"COPY {table} ({columns}) FROM STDIN", rows)
        target.commit()


@pytest.mark.parametrize("first", range(1, len(all_migrations())))
async def test_what_an_older_schema_holds_is_there_after_the_migration(
    database_url: str, migrated_database_url: str, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    settings = Settings(database_url=database_url)
    async with open_database(migrated_database_url) as database:
        now = Store(database)
        ids = [await put(now, ago(days=n * 20, minutes=n), to=["alice", "bob"]) for n in range(4)]
        await put(now, ago(days=3), message_id=random_id(), arrived_at=ago(minutes=1))
        await put(now, ago(minutes=5), to=["alice"], channels=["stub"])
        await mark_ids(database, "alice", "read", ids[1:3], pod="api-1")
        pages = {user: await all_pages(now, user) for user in ("alice", "bob")}
        monkeypatch.setattr(migrations, "all_migrations", lambda: all_migrations()[:first])
        await migrate(settings)
        monkeypatch.undo()
        _copy_rows(migrated_database_url, database_url)
    assert len(await migrate(settings)) == len(all_migrations()) - first
    async with open_database(database_url) as database:
        then = Store(database)
        assert {user: await all_pages(then, user) for user in ("alice", "bob")} == pages
        assert [await read_unread(database, user) for user in ("alice", "bob")] == [4, 4]
        assert (await verify_inboxes(database)).drifts == []
        await assert_counters_are_right(then)
        # And it goes on: a double is one still, and what is new comes on top.
        assert (await then.fetch("SELECT count(*) FROM message")) == [(6,)]
        then.at[MESSAGES] = 6
        newest = await put(then, ago(seconds=0))
        assert (await all_pages(then))[0] == newest


def test_names_of_indexes_fit_and_stay_apart() -> None:
    [one] = indexes_of("CREATE UNIQUE INDEX IF NOT EXISTS a_b ON message (x, y) WHERE z;\n")
    assert (one.name, one.table, one.unique, one.rest) == ("a_b", "message", "UNIQUE ", "(x, y) WHERE z")
    assert one.name_on("message_p20261128") == "message_p20261128_a_b"
    long = replace(one, name="x" * 60)
    names = {long.name_on("message_p20261128"), long.name_on("message_p20261129")}
    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)
