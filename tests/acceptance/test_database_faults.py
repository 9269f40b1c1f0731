"""What can happen to a database under load: nothing is lost or doubled, nobody has to come, the log says it.

The table of docs/how-to/database-faults.md is what is held here. Roles are real processes; a sweep
is at work, whose deadline passes in each of these outages, and which must not resend anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from notifyd.dev.postgres import LocalPostgres
from notifyd.settings import Settings
from notifyd.store import migrate as migrations
from tests.fixtures.kafka import settings_for
from tests.fixtures.load import Load
from tests.fixtures.postgres import fill_disk, new_server, run_sql, small_disk, standby_of
from tests.fixtures.processes import NotifydProcess, ProcessStarter
from tests.fixtures.service import Service, with_database
from tests.fixtures.waiting import wait_until
from tests.fixtures.wire import Wire

_QUICK = {
    "NOTIFYD_SWEEP_CHECK_AFTER_S": "2",
    "NOTIFYD_SWEEP_EVERY_S": "0.2",
    # A lock is waited for half as long.
    "NOTIFYD_DATABASE_STATEMENT_TIMEOUT_S": "2",
}
_LOCKED_S = 20


class Watch:
    """What a process logs from now on."""

    def __init__(self, process: NotifydProcess) -> None:
        self._process = process
        self._before = len(process.log_entries())

    def find(self, event: str, **keys: object) -> list[dict[str, Any]]:
        """Return the lines of this event that carry these keys."""
        lines = self._process.log_entries()[self._before :]
        return [one for one in lines if one["event"] == event and keys.items() <= one.items()]

    def wait(self, event: str, **keys: object) -> dict[str, Any]:
        """Return the first of them, as soon as it is there."""
        what = f"{event} {keys} of {self._process.name}"
        return wait_until(lambda: self.find(event, **keys), what=what, timeout_s=60, every_s=0.1)[0]


class System:
    """persist, deliver and sweep at work on one database."""

    def __init__(self, service: Service, persist_url: str) -> None:
        self.service = service
        self.persist = service.role("persist", NOTIFYD_DATABASE_URL=persist_url, **_QUICK)
        self.sweep = service.role("sweep", **_QUICK)
        self.deliver = service.role("deliver")
        self.roles = [self.persist, self.sweep, self.deliver]
        for role in self.roles:
            role.wait_ready()

    @contextlib.contextmanager
    def under_load(self, count: int = 800) -> Iterator[Watch]:
        """Send so many messages, 200 a second, while the block is at its fault; then all must be well."""
        watch = Watch(self.persist)
        with Load(self.service.settings, count=count, per_s=200, channels=["stub"]) as load:
            wait_until(lambda: len(load.confirmed) >= 100, what="a load")
            yield watch
            ids = load.wait()
        self.assert_whole(ids)

    def assert_whole(self, ids: list[str]) -> None:
        """Each message is there once, delivered, and nothing was done for it that was not needed."""
        sent = "SELECT count(*) FROM delivery WHERE state = 'sent' AND message_id = ANY(%s::uuid[])"
        wait_until(
            lambda: self._rows(sent, ids) == [(len(ids),)], what="every outcome", timeout_s=90, every_s=0.5
        )
        for table, key in (("message", "id"), ("inbox", "message_id"), ("delivery", "message_id")):
            rows = self._rows(f"SELECT count(*) FROM {table} WHERE {key} = ANY(%s::uuid[])", ids)
            assert rows == [(len(ids),)], table
        assert self._rows("SELECT count(*) FROM delivery WHERE resends > 0 OR run <> ''") == [(0,)]
        assert self._rows("SELECT count(*) FROM early_event") == [(0,)]
        verified = self.service.run("inbox", "verify")
        assert verified.returncode == 0, verified.stdout
        assert self.service.dead_letters() == []
        assert all(role.is_running for role in self.roles)
        for role in self.roles:
            role.wait_ready()

    def _rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        try:
            return self.service.rows(sql, *params)
        except psycopg2.OperationalError:  # it starts
            return []


@contextlib.contextmanager
def running(settings: Settings, folder: Path, url: str, persist_url: str = "") -> Iterator[System]:
    """Start everything on the database at `url`; `persist` may be led there another way."""
    starter = ProcessStarter(folder)
    try:
        service = Service(starter, with_database(settings, url), folder).set_up()
        yield System(service, persist_url or url)
    finally:
        starter.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[LocalPostgres]:
    with new_server(fsync="off") as server:
        yield server


@pytest.fixture(scope="module")
def wire(own_postgres: LocalPostgres) -> Iterator[Wire]:
    with Wire(own_postgres.url) as wire:
        yield wire


@pytest.fixture(scope="module")
def system(
    broker: str,
    broker_kind: str,
    own_postgres: LocalPostgres,
    wire: Wire,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """One for all faults after which the same server goes on: who recovered is ready for the next."""
    settings = settings_for(broker, is_embedded=broker_kind == "embedded", topic_prefix="faults.")
    with running(settings, tmp_path_factory.mktemp("faults"), own_postgres.url, wire.url) as system:
        yield system


# Faults after which the same server goes on


def test_a_killed_backend_takes_the_server_down_for_a_moment_and_nothing_along(system: System) -> None:
    with system.under_load() as persist:
        backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'notifyd' LIMIT 1"
        [(pid,)] = system.service.rows(backends)
        os.kill(pid, signal.SIGKILL)
        persist.wait("waiting_for_database", reason="database_unavailable")
        persist.wait("database_answers_again")


def test_a_killed_server_is_waited_for(system: System, own_postgres: LocalPostgres) -> None:
    sweep = Watch(system.sweep)
    with system.under_load() as persist:
        own_postgres.kill()
        persist.wait("waiting_for_database", reason="database_unavailable")
        sweep.wait("sweep_waits", reason="database_unavailable")
        own_postgres.stop()  # what the kill left behind
        own_postgres.start()
        persist.wait("database_answers_again")
        sweep.wait("sweep_goes_on", is_leading=True)


def test_a_server_that_becomes_read_only_is_waited_for_and_said_to_be_so(
    system: System, own_postgres: LocalPostgres
) -> None:
    sweep = Watch(system.sweep)
    with system.under_load() as persist:
        reload = "SELECT pg_reload_conf()"
        run_sql(own_postgres.url, "ALTER SYSTEM SET default_transaction_read_only = on", reload)
        line = persist.wait("waiting_for_database", reason="database_read_only")
        assert "has become read-only" in line["error"]
        sweep.wait("sweep_waits", reason="database_read_only")
        run_sql(
            own_postgres.url,
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            reload,
        )
        persist.wait("database_answers_again")
        sweep.wait("sweep_goes_on", is_leading=True)
    # Said once, however often it was tried.
    assert len(sweep.find("sweep_waits", reason="database_read_only")) == 1
    assert len(persist.find("database_read_only")) == 1


def test_a_statement_that_takes_too_long_is_cut_and_tried_again(
    system: System, own_postgres: LocalPostgres
) -> None:
    with system.under_load() as persist:
        run_sql(
            own_postgres.url,
            "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
            "CREATE TRIGGER slow BEFORE INSERT ON message FOR EACH STATEMENT EXECUTE FUNCTION be_slow()",
        )
        line = persist.wait("waiting_for_database", reason="statement_timeout")
        assert "longer than 2 s" in line["error"]
        run_sql(own_postgres.url, "DROP FUNCTION be_slow CASCADE")
        persist.wait("database_answers_again")


def test_a_table_locked_for_20_s_by_a_migration_of_others_is_waited_for(
    system: System, own_postgres: LocalPostgres
) -> None:
    with system.under_load(count=4400) as persist:
        with psycopg2.connect(own_postgres.url) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE message")
            cursor.execute("SELECT pg_sleep(%s)", (_LOCKED_S,))
        other.close()
        line = persist.wait("waiting_for_database", reason="database_locked")
        assert "lock timeout" in line["error"]
        persist.wait("database_answers_again")


def test_a_connection_cut_in_the_middle_of_commit_doubles_nothing(system: System, wire: Wire) -> None:
    with system.under_load() as persist:
        wire.cut_commits(40)
        wait_until(lambda: not wire.left, what="the cuts")
        line = persist.wait("waiting_for_database", reason="database_unavailable")
        assert "broke" in line["error"]
        # One that the server had, and one that it had not.
        persist.wait("database_answers_again", outcome="replayed")
        persist.wait("database_answers_again", outcome="written")
    assert min(wire.cuts["before"], wire.cuts["after"]) >= 10


def test_a_migration_beside_a_living_system_is_through_soon_and_breaks_nothing(
    system: System, own_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of several tables, in another order than persist takes them in, and an index on a living one.
    sql = (
        "ALTER TABLE message_event ADD COLUMN later integer;\n"
        "ALTER TABLE user_state ADD COLUMN later integer;\n"
        "ALTER TABLE delivery ADD COLUMN later integer;\n"
        "ALTER TABLE message ADD COLUMN later integer;\n"
        "CREATE INDEX inbox_later ON inbox (message_id, user_id);\n"
    )
    next_one = migrations.Migration(9998, "later", sql, "x")
    known = migrations.all_migrations()
    monkeypatch.setattr(migrations, "all_migrations", lambda: [*known, next_one])
    settings = with_database(system.service.settings, own_postgres.url)
    with system.under_load():
        assert asyncio.run(migrations.pending_migrations(settings)) == ["9998_later"]
        assert asyncio.run(migrations.migrate(settings)) == ["9998_later"]
        # The release before goes on, and so does one of its processes that starts now.
        assert system.service.run("migrate", "--check").returncode == 0
        system.persist.kill()
        system.persist.start()


# A full disk


def test_a_full_disk_is_waited_for_and_said_to_be_so(settings: Settings, tmp_path: Path) -> None:
    with small_disk(64) as disk, new_server(fsync="off") as server:
        run_sql(
            server.url,
            f"CREATE TABLESPACE small LOCATION '{disk}'",
            "CREATE DATABASE small TABLESPACE small",
        )
        url = server.url.rpartition("/")[0] + "/small"
        with running(settings, tmp_path, url) as system, system.under_load() as persist:
            ballast = fill_disk(disk)
            line = persist.wait("waiting_for_database", reason="database_full")
            assert "No space left on device" in line["error"]
            ballast.unlink()
            persist.wait("database_answers_again")


def test_a_server_that_has_no_room_for_its_log_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    with small_disk(96) as disk, new_server(fsync="off", min_wal_size="32MB", max_wal_size="32MB") as server:
        server.stop()
        log = server.directory / "data" / "pg_wal"
        subprocess.run(["cp", "--archive", log, disk], check=True)
        shutil.rmtree(log)
        log.symlink_to(disk / "pg_wal")
        server.start()
        with running(settings, tmp_path, server.url) as system, system.under_load() as persist:
            ballast = fill_disk(disk)
            with pytest.raises(psycopg2.OperationalError):
                while True:  # until there is no file left to go on in
                    run_sql(server.url, "CREATE TABLE t ()", "DROP TABLE t", "SELECT pg_switch_wal()")
            persist.wait("waiting_for_database")
            ballast.unlink()
            server.stop()  # it has given up, or is about to
            server.start()
            persist.wait("database_answers_again")


# A failover


def test_after_a_failover_to_a_standby_that_was_behind_all_is_written_again(
    settings: Settings, tmp_path: Path
) -> None:
    with new_server(fsync="off") as first, standby_of(first) as second:
        port = urlsplit(second.url).port
        head, _, name = first.url.rpartition("/")
        url = f"{head},127.0.0.1:{port}/{name}?target_session_attrs=read-write"
        with running(settings, tmp_path, url) as system, system.under_load(count=2000) as persist:
            count = "SELECT count(*) FROM message"
            wait_until(lambda: _count(second.url, count) > 100, what="the standby to follow")
            run_sql(second.url, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
            wait_until(
                lambda: _count(first.url, count) > _count(second.url, count) + 100, what="it to be behind"
            )
            first.kill()
            persist.wait("waiting_for_database", reason="database_unavailable")
            persist.wait("waiting_for_database", reason="database_read_only")
            run_sql(second.url, "SELECT pg_promote()")
            persist.wait("database_answers_again")
            persist.wait("mark_moved")


def _count(url: str, sql: str) -> int:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            [(count,)] = cursor.fetchall()
            return int(count)
    finally:
        connection.close()
