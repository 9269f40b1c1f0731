"""The PostgreSQL that `notifyd dev` and these tests start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from notifyd.dev.postgres import LocalPostgres
from notifyd.dev.postgres_processes import processes_on
from notifyd.errors import ConfigError

_OWNER = """
import sys, time
from pathlib import Path
from notifyd.dev.postgres import LocalPostgres
print(LocalPostgres(Path(sys.argv[1])).start(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="notifyd-postgres-") as root:
        Path(root).chmod(0o711)
        yield Path(root) / "server"


def _ask(url: str, statement: str) -> object:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_what_was_written_survives_a_kill_of_the_server_and_the_url_stays(directory: Path) -> None:
    with LocalPostgres(directory) as server:
        url = server.url
        _ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
        server.kill()
        server.stop()
        assert server.start() == url
        assert _ask(url, "SELECT n FROM kept") == (42,)
    assert processes_on(directory / "data") == []


def test_a_server_whose_owner_was_killed_ends_and_the_next_start_goes_on(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, directory], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        _ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
        owner.send_signal(signal.SIGKILL)
    _wait_until(lambda: not processes_on(directory / "data"), "the server outlived its owner")
    with LocalPostgres(directory) as server:
        assert _ask(server.url, "SELECT n FROM kept") == (42,)


def test_a_living_owner_keeps_others_out(directory: Path) -> None:
    with LocalPostgres(directory) as server:
        with pytest.raises(ConfigError, match="in use by process"):
            LocalPostgres(directory).start()
        assert _ask(server.url, "SELECT 1") == (1,)


def test_a_stale_pid_file_that_names_a_living_stranger_is_no_obstacle(directory: Path) -> None:
    with LocalPostgres(directory) as server:
        server.stop()
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            (directory / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n{directory / 'data'}\n")
            server.start()
            assert _ask(server.url, "SELECT 1") == (1,)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


def test_an_initdb_that_was_cut_short_is_begun_anew(directory: Path) -> None:
    (directory / "data.unfinished" / "base").mkdir(parents=True)
    with LocalPostgres(directory) as server:
        assert _ask(server.url, "SELECT 1") == (1,)


def test_a_wrong_password_is_refused(directory: Path) -> None:
    with LocalPostgres(directory) as server:
        user, _, place = server.url.removeprefix("postgresql://").partition("@")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(f"postgresql://{user.split(':')[0]}:wrong@{place}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root the server is another user")
def test_a_directory_that_the_servers_user_cannot_enter_has_a_stand_in_that_goes_with_it() -> None:
    stand_ins = []
    for _ in range(2):
        closed = Path(tempfile.mkdtemp(prefix="notifyd-closed-"))  # mode 0700
        with LocalPostgres(closed / "server") as server:
            assert _ask(server.url, "SELECT 1") == (1,)
            stand_ins.append((closed / "server" / "data").readlink().parent)
        shutil.rmtree(closed)
    assert not stand_ins[0].exists()
    shutil.rmtree(stand_ins[1])
