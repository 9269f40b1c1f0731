"""The database behind one small pool: aiopg's connections, and all of its traps in one place.

- A `statement_timeout` surfaces as `asyncio.CancelledError`: told from a real one, made transient.
- It waits with `asyncio.wait_for`, which before Python 3.12 keeps a cancellation to itself where what it
  waits for ends at that moment: a task that is to end would go on for good. It is raised here.
- libpq goes on to the next host or address by itself and changes the socket under aiopg, which
  hangs or, under uvloop, raises `RuntimeError`: hosts and addresses are tried one by one here.
- A socket that libpq closed can have its number taken by another transport, and uvloop refuses to
  let go of it: such a connection is dropped all the same. Or uvloop keeps the closed watcher, and
  every second attempt to connect fails with `RuntimeError`: tried again at once.
- It asks after a broken connection with `select`, which takes no descriptor above 1023; a `ws` process has
  thousands, and there a database that goes away was waited for until a timeout: `poll` does it.
- A failover leaves connections to a host that has become read-only: the pool empties itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import select
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import aiopg
import aiopg.connection
import psycopg2
import psycopg2.extensions

from notifyd.errors import ConfigError, NotifydError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.address import Address, addresses_of, describe, parse_url
from notifyd.store.cipher import ContentCipher
from notifyd.store.errors import UNREACHABLE, RowError, meaning_of, meaning_of_refusal
from notifyd.store.sql import Prepared

#: A lock held by someone else (a migration, a long transaction) is waited for no longer than this.
_LOCK_TIMEOUT_S: Final = 10.0
#: The server's own timeouts come first; this one is for a server that no longer speaks.
_SILENCE_S: Final = 5.0
#: Between two lines that say we are still waiting.
_REMINDER_S: Final = 30.0
_BACKOFF_CAP_S: Final = 5.0
#: A dead peer is noticed within half a minute, also by a connection that waits for an answer.
_KEEPALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}

Row = tuple[Any, ...]
Params = Mapping[str, Any]

_log = get_logger(component="database")


class Database:
    """At most `database_pool_size` connections to the database of `database_url`.

    Errors: `TransientError` for what may pass, `RowError` (SQLSTATE 22, 23, 54) for data at
    fault, `ConfigError` for what a person must change. No message ever holds the password.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, application: str = "notifyd") -> None:
        if settings.database_url is None:
            raise ConfigError(
                "no database is set",
                reason="no_database",
                remedy="set NOTIFYD_DATABASE_URL=postgresql://user:password@host:5432/database",
            )
        self._settings = settings
        self._metrics = metrics
        self._application = application
        #: What messages say passes through it on its way to and from their rows.
        self.content = ContentCipher.of(settings)
        self._options = parse_url(settings.database_url.get_secret_value())
        self.where = describe(self._options)
        self._free: list[aiopg.Connection] = []
        self._used: set[aiopg.Connection] = set()
        #: What the server has a plan of, by connection.
        self._prepared: weakref.WeakKeyDictionary[aiopg.Connection, set[str]] = weakref.WeakKeyDictionary()
        self._slots = asyncio.Semaphore(settings.database_pool_size)
        self._is_closed = False
        self._is_counted = False
        self._read_only_line_at = 0.0
        self._session = (
            f"SET statement_timeout = {int(settings.database_statement_timeout_s * 1000)};"
            f"SET lock_timeout = {int(_lock_timeout_s(settings) * 1000)};"
            f"SET idle_in_transaction_session_timeout = "
            f"{int(settings.database_statement_timeout_s * 2000)};"
            # Compiling a statement of some milliseconds costs hundreds; all is looked up by key, and
            # the default cost of a page, meant for turning disks, makes the planner read whole tables.
            "SET jit = off; SET random_page_cost = 1.1; SET timezone = 'UTC'; SET synchronous_commit = on;"
            # Of prepared statements alone; the planner does not see that most partitions are passed over.
            "SET plan_cache_mode = force_generic_plan;"
            "SELECT current_setting('transaction_read_only')"
        )

    async def start(self, wait: bool = True) -> None:
        """Connect once. With `wait` a database that comes late is waited for, with a log line.

        Raises `ConfigError` at once where waiting cannot help (password, missing database),
        `TransientError` without `wait`.
        """
        loop = asyncio.get_running_loop()
        failures, next_line_at = 0, 0.0
        if not self._is_counted:
            self._is_counted = True
            self._metrics.database_connections_max.inc(self._settings.database_pool_size)
        while True:
            try:
                async with self._connection():
                    break
            except TransientError as error:
                self._metrics.database_waits.labels(error.reason).inc()
                if not wait:
                    raise
                if loop.time() >= next_line_at:
                    _log.warning(
                        "waiting_for_database",
                        database=self.where,
                        error=error.message,
                        remedy=error.remedy,
                    )
                    next_line_at = loop.time() + _REMINDER_S
                failures += 1
                await asyncio.sleep(random.uniform(0.5, 1) * min(_BACKOFF_CAP_S, 0.2 * 2 ** min(failures, 8)))
        if failures:
            _log.info("database_found", database=self.where, failures=failures)

    async def stop(self) -> None:
        """Close all connections; work in progress on them fails."""
        self._is_closed = True
        if self._is_counted:
            self._is_counted = False
            self._metrics.database_connections_max.dec(self._settings.database_pool_size)
        for connection in [*self._free, *self._used]:
            _dispose(connection)
        self._free.clear()

    async def ping(self) -> bool:
        """Say whether the database answers now."""
        try:
            return await self.fetch("SELECT 1") == [(1,)]
        except NotifydError:
            return False

    async def fetch(self, sql: str | Prepared, params: Params | None = None) -> list[Row]:
        """Run one statement in a transaction of its own and return its rows."""
        async with self._connection() as connection:
            return await self._run(connection, sql, params)

    @contextlib.asynccontextmanager
    async def transaction(self, *, is_snapshot: bool = False) -> AsyncIterator[Transaction]:
        """Run statements in one transaction: committed at the end, rolled back by any error.

        `is_snapshot`: all statements read the same moment (and none writes).
        """
        mode = "REPEATABLE READ READ ONLY" if is_snapshot else "READ COMMITTED"
        async with self._connection() as connection:
            transaction = Transaction(self, connection, f"BEGIN ISOLATION LEVEL {mode};")
            try:
                yield transaction
                await transaction.commit()
            except NotifydError:
                with contextlib.suppress(NotifydError):
                    await transaction.rollback()
                raise

    # -- connections -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiopg.Connection]:
        if self._is_closed:
            raise TransientError("the database pool is closed", reason="database_closed")
        asked_at = time.monotonic()
        async with self._slots:
            connection = self._take_free() or await self._connect()
            self._metrics.database_wait.observe(time.monotonic() - asked_at)
            self._metrics.database_connections.inc()
            self._used.add(connection)
            try:
                yield connection
            finally:
                self._used.discard(connection)
                self._metrics.database_connections.dec()
                # What was cut in the middle of a transaction is in no state to go on.
                if self._is_closed or connection.closed or not _is_idle(connection):
                    _dispose(connection)
                else:
                    self._free.append(connection)

    def _take_free(self) -> aiopg.Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self) -> aiopg.Connection:
        """Connect to the first address that answers and can be written to; a read-only one is second best."""
        failure: NotifydError | None = None
        spare: aiopg.Connection | None = None
        for address in await addresses_of(self._options):
            try:
                connection, is_read_only = await self._connect_to(address)
            except NotifydError as error:
                failure = error
                continue
            except BaseException:
                if spare is not None:
                    _dispose(spare)
                raise
            if not is_read_only:
                if spare is not None:
                    _dispose(spare)
                return connection
            if spare is None:
                spare = connection
            else:
                _dispose(connection)
        if spare is not None:
            return spare
        raise failure or TransientError(
            f"{self.where}: the host has no address", reason="database_unavailable"
        )

    async def _connect_to(self, address: Address) -> tuple[aiopg.Connection, bool]:
        options = {
            "application_name": self._application,
            **_KEEPALIVE,
            **self._options,
            **address.options,
        }
        timeout_s = self._settings.database_connect_timeout_s
        connection: aiopg.Connection | None = None
        try:
            # Made first and awaited then, so that one that comes to nothing can be put away.
            connection = _begin_to_connect(timeout_s, options)
            with _no_cancel_lost():
                await connection
            rows = await self._run(connection, self._session, None)
        except BaseException as error:
            if connection is not None:
                _dispose(connection)
            if isinstance(error, asyncio.CancelledError) and not _is_being_cancelled():
                raise TransientError(f"{self.where} cut us off", reason="database_unavailable") from None
            if isinstance(error, TimeoutError):
                raise TransientError(
                    f"{self.where} does not answer within {timeout_s:g} s",
                    reason="database_unavailable",
                    remedy=UNREACHABLE,
                ) from None
            if isinstance(error, psycopg2.Error | RuntimeError | OSError):
                raise meaning_of_refusal(error, where=self.where) from None
            raise
        return connection, rows == [("on",)]

    async def _run(
        self, connection: aiopg.Connection, sql: str | Prepared, params: Params | None, begin: str = ""
    ) -> list[Row]:
        if isinstance(sql, str):
            return await self._run_text(connection, begin + sql, params)
        known = self._prepared.setdefault(connection, set())
        if sql.name not in known:
            await self._run_text(connection, begin + sql.prepare, None)
            known.add(sql.name)
            begin = ""
        return await self._run_text(connection, begin + sql.execute, sql.values(params or {}))

    async def _run_text(self, connection: aiopg.Connection, sql: str, params: Params | None) -> list[Row]:
        timeout_s = self._settings.database_statement_timeout_s
        try:
            with _no_cancel_lost():
                cursor = await connection.cursor(timeout=timeout_s + _SILENCE_S)
                try:
                    await cursor.execute(sql, params)
                    return await cursor.fetchall() if cursor.description else []
                finally:
                    cursor.close()
        except asyncio.CancelledError:
            _dispose(connection)
            if _is_being_cancelled():
                raise
            raise TransientError(
                f"{self.where}: a statement took longer than {timeout_s:g} s", reason="statement_timeout"
            ) from None
        except TimeoutError:
            _dispose(connection)
            raise TransientError(f"{self.where} fell silent", reason="database_unavailable") from None
        except (psycopg2.Error, RuntimeError, OSError) as error:
            ours = meaning_of(error, where=self.where)
            if not isinstance(ours, RowError):
                _dispose(connection)
            if ours.reason == "database_read_only":
                self._tell_read_only()
                self._empty()
            raise ours from None

    def _tell_read_only(self) -> None:
        """Say it, and again while it lasts: each statement of each connection finds out for itself."""
        now = asyncio.get_running_loop().time()
        if now >= self._read_only_line_at:
            self._read_only_line_at = now + _REMINDER_S
            _log.warning("database_read_only", database=self.where)

    def _empty(self) -> None:
        """Drop every connection, those in use as soon as they come back: the writable host may be another."""
        for connection in [*self._free, *self._used]:
            _dispose(connection)
        self._free.clear()


class Transaction:
    """One open transaction; made by `Database.transaction`."""

    def __init__(self, database: Database, connection: aiopg.Connection, begin: str) -> None:
        self._database = database
        self._connection = connection
        self._begin = begin
        self._is_over = False
        #: As that of the database.
        self.content = database.content

    async def fetch(self, sql: str | Prepared, params: Params | None = None) -> list[Row]:
        """Run a statement and return its rows."""
        begin, self._begin = self._begin, ""
        return await self._database._run(self._connection, sql, params, begin)

    async def commit(self, last: str = "", params: Params | None = None) -> None:
        """Commit; with `last` that statement and the commit go to the server in one piece."""
        if self._is_over:
            return
        self._is_over = True
        if self._begin and not last:
            return  # nothing was ever sent
        begin, self._begin = self._begin, ""
        await self._database._run(self._connection, f"{begin}{last};COMMIT", params)

    async def rollback(self) -> None:
        """Undo everything; the transaction is over."""
        if self._is_over and _is_idle(self._connection):
            return
        self._is_over = True
        if not self._begin and not self._connection.closed:
            await self._database._run(self._connection, "ROLLBACK", None)


class _Poll:
    """The one call that aiopg makes of the module `select`: is this descriptor still one?"""

    @staticmethod
    def select(readers: Sequence[int], _writers: object, _others: object, _timeout_s: float) -> None:
        poll = select.poll()
        for descriptor in readers:
            poll.register(descriptor)
        if any(event & select.POLLNVAL for _, event in poll.poll(0)):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


aiopg.connection.select = _Poll  # type: ignore[attr-defined, assignment]


def _lock_timeout_s(settings: Settings) -> float:
    """Below the limit of a statement, so that the server tells a lock of others from a slow statement."""
    return min(_LOCK_TIMEOUT_S, settings.database_statement_timeout_s / 2)


def _is_idle(connection: aiopg.Connection) -> bool:
    return bool(connection.raw.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE)


def _is_being_cancelled() -> bool:
    return _cancels() > 0


def _cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


@contextlib.contextmanager
def _no_cancel_lost() -> Iterator[None]:
    """Raise a cancellation that came meanwhile and that what ran within did not pass on."""
    before = _cancels()
    try:
        yield
    finally:
        if _cancels() > before:
            raise asyncio.CancelledError


def _begin_to_connect(timeout_s: float, options: Mapping[str, Any]) -> aiopg.Connection:
    """Open the socket; the connection is there once it was awaited."""
    for is_last in (False, True):
        # In two steps, so that one that fails half way can be put away too.
        connection = aiopg.Connection.__new__(aiopg.Connection)
        try:
            aiopg.Connection.__init__(
                connection,
                None,
                timeout_s,
                enable_json=False,
                enable_hstore=False,
                enable_uuid=False,
                **options,
            )
        except RuntimeError:
            # uvloop still has a closed watcher under the socket's number, of a socket that libpq
            # closed; to dispose of this one takes that away.
            _dispose(connection)
            if is_last:
                raise
        else:
            break
    return connection


def _dispose(connection: aiopg.Connection) -> None:
    try:
        connection.close()
    except (RuntimeError, OSError, psycopg2.Error):
        # uvloop: the socket's number already belongs to another transport.
        with contextlib.suppress(psycopg2.Error):
            connection.raw.close()
    waiter = connection._waiter
    if waiter is not None and waiter.done() and not waiter.cancelled():
        waiter.exception()  # nobody waits any more, which is no error to be logged
