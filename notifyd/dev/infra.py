"""The surroundings that notifyd needs, started in a folder: a broker and a PostgreSQL, ready for use."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from notifyd.dev.broker import EMBEDDED_SETTINGS, EmbeddedBroker
from notifyd.dev.child import own_mark, started_at
from notifyd.dev.kafka import LocalKafka
from notifyd.dev.postgres import LocalPostgres
from notifyd.dev.session import forget_session, write_session
from notifyd.errors import ConfigError
from notifyd.settings import PREFIX, Settings, load_settings

#: With Apache Kafka in the place of the embedded broker.
_KAFKA_SETTINGS: Final[Mapping[str, str]] = {
    "NOTIFYD_KAFKA_SESSION_TIMEOUT_S": "6",
    "NOTIFYD_TOPIC_PARTITIONS": "4",
    "NOTIFYD_TOPIC_REPLICATION": "1",
}

#: What suits a machine of one's own; a variable that is set wins.
_DEFAULTS: Final[Mapping[str, str]] = {
    "NOTIFYD_HTTP_HOST": "127.0.0.1",
    "NOTIFYD_ADMIN_HOST": "127.0.0.1",
    "NOTIFYD_WEBHOOK_ALLOW_PRIVATE": "true",
    "NOTIFYD_WS_ORIGINS": "*",
}

#: Of one process, not of the surroundings.
_PERSONAL: Final = ("NOTIFYD_LOG_", "NOTIFYD_POD_NAME", "NOTIFYD_TEST_", "NOTIFYD_SETTINGS_STRICT")


class DevSurroundings:
    """A broker, a PostgreSQL with its schema, and the topics, for as long as the `with` block runs.

    `directory` belongs to one living process at a time. PostgreSQL keeps its data there, Apache
    Kafka (`real_kafka`) too; what the embedded broker holds is gone at the end. `fixed` are
    variables that go into `env` whatever the environment says; `say` is told what goes on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        real_kafka: bool = False,
        fixed: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.env: dict[str, str] = {}
        self._environ = os.environ if environ is None else environ
        self._fixed = dict(fixed or {})
        self._say = say
        self._lock: IO[str] | None = None
        self._is_real = real_kafka
        self._broker: EmbeddedBroker | LocalKafka | None = None
        self._postgres: LocalPostgres | None = None
        self._postgres_mark = ""

    @property
    def broker_name(self) -> str:
        """What the broker is, for a person."""
        return "Apache Kafka" if self._is_real else "the embedded broker (in memory, no idempotent producers)"

    def __enter__(self) -> DevSurroundings:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def settings(self) -> Settings:
        """Return the settings of a role in these surroundings."""
        return load_settings({**self._environ, **self.env})

    def find_dead(self) -> str | None:
        """Say which part ended by itself and where its log is; None while all run."""
        if self._broker is not None and not self._broker.is_running:
            return f"{self.broker_name} has ended; see {self._broker.log_file}"
        if self._postgres is not None and self._postgres.pid is not None:
            pid, _, start = self._postgres_mark.partition(" ")
            if started_at(int(pid)) != start:
                return f"PostgreSQL has ended; see {self._postgres.log_file}"
        return None

    def stop(self) -> None:
        """End everything in order and leave no process; a signal meanwhile changes nothing."""
        with _no_interruption(), contextlib.ExitStack() as stack:
            if self._lock is not None:
                stack.callback(self._lock.close)
                stack.callback(forget_session, self.directory)
            if self._postgres is not None:
                stack.callback(self._postgres.stop)
            if self._broker is not None:
                stack.callback(self._broker.stop)
            self._lock = self._broker = self._postgres = None

    def _start(self) -> None:
        self._take_directory()
        forget_session(self.directory)
        if self._is_real:
            self._broker = LocalKafka(self.directory / "kafka")
        else:
            self._broker = EmbeddedBroker(self.directory / "broker")
        self._say(f"starting {self.broker_name}")
        servers = self._broker.start()
        is_new = not (self.directory / "postgres").exists()
        self._say("starting PostgreSQL" + (" (making its data directory first)" if is_new else ""))
        self._postgres = LocalPostgres(self.directory / "postgres")
        url = self._postgres.start()
        self._postgres_mark = own_mark(self._postgres.pid or 0)
        self.env = self._build_env(servers, url)
        self._say("creating topics and the schema of the database")
        settings = self.settings()
        asyncio.run(_prepare(settings))
        write_session(self.directory, self.env)

    def _take_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("a+")
        except OSError as error:
            raise ConfigError(
                f"cannot use {self.directory}: {error.strerror}",
                reason="bad_directory",
                remedy="choose another with --data",
            ) from error
        try:
            # The kernel frees it however this process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().split()
            lock.close()
            raise ConfigError(
                f"another `notifyd dev` (process {owner[0] if owner else '?'}) runs on {self.directory}",
                reason="directory_in_use",
                remedy="end it first, or choose another folder with --data",
            ) from None
        lock.truncate(0)
        lock.write(own_mark(os.getpid()))
        lock.flush()
        self._lock = lock

    def _build_env(self, servers: str, url: str) -> dict[str, str]:
        given = {
            name: value
            for name, value in self._environ.items()
            if name.startswith(PREFIX) and not name.startswith(_PERSONAL)
        }
        env = {"NOTIFYD_JWT_SECRET": self._secret(), **_DEFAULTS, **given, **self._fixed}
        env |= _KAFKA_SETTINGS if self._is_real else EMBEDDED_SETTINGS
        env["NOTIFYD_KAFKA_BOOTSTRAP_SERVERS"] = servers
        env["NOTIFYD_DATABASE_URL"] = url
        if "NOTIFYD_KAFKA_SECURITY_PROTOCOL" in given:
            env["NOTIFYD_KAFKA_SECURITY_PROTOCOL"] = "PLAINTEXT"
        return env

    def _secret(self) -> str:
        """Return this folder's key for tokens, so that a token outlives a restart."""
        path = self.directory / "jwt-secret"
        with contextlib.suppress(OSError):
            found = path.read_text().strip()
            if found:
                return found
        secret = secrets.token_hex(32)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secret + "\n")
        return secret


async def _prepare(settings: Settings) -> None:
    from notifyd.store.migrate import migrate
    from notifyd.stream.topics import create_topics

    await create_topics(settings)
    await migrate(settings)


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Let no Ctrl-C cut the end short: each step of it has a limit of its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
