"""The pool: what may pass is waited for, what cannot is said at once, and aiopg's traps stay inside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import aiopg.connection
import pytest
import structlog
import uvloop

from notifyd.dev.postgres import LocalPostgres
from notifyd.errors import ConfigError, TransientError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.store.errors import RowError
from notifyd.store.pool import Database
from tests.fixtures.postgres import run_sql
from tests.fixtures.store import open_database


def _database(url: str, **settings: object) -> Database:
    return Database(Settings(database_url=url, **settings), Metrics())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("@", "x@"), "database_refused"),
        (lambda url: url + "_missing", "database_missing"),
        (lambda url: url.replace("//notifyd:", "//nobody:"), "database_refused"),
    ],
)
async def test_what_waiting_cannot_mend_is_said_at_once_and_without_the_password(
    database_url: str, change: object, reason: str
) -> None:
    assert callable(change)
    url = change(database_url)
    with pytest.raises(ConfigError) as caught:
        await _database(url).start(wait=True)
    assert caught.value.reason == reason
    assert caught.value.remedy
    assert url.split(":")[2].split("@")[0] not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%zz@localhost/x",
        "postgresql://u:secret@localhost:99999/x",
        "postgresql://u:secret@h:x/d",
    ],
)
def test_a_url_that_cannot_be_read_is_a_config_error_that_does_not_quote_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _database(url)
    assert "secret" not in str(caught.value)


async def test_a_late_database_is_waited_for_with_a_line_that_says_so(own_postgres: LocalPostgres) -> None:
    url = own_postgres.url
    own_postgres.stop()
    database = _database(url)
    with pytest.raises(TransientError):
        await database.start(wait=False)
    with structlog.testing.capture_logs() as lines:
        starting = asyncio.create_task(database.start(wait=True))
        while not lines:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_postgres.start)
        await asyncio.wait_for(starting, 30)
    assert [line["event"] for line in lines] == ["waiting_for_database", "database_found"]
    assert await database.ping()
    await database.stop()


def test_under_uvloop_a_server_that_is_killed_and_comes_back_is_used_again(
    own_postgres: LocalPostgres,
) -> None:
    async def work() -> None:
        # "localhost" has two addresses here and there, and only one of them answers.
        database = _database(own_postgres.url.replace("127.0.0.1", "localhost"))
        await database.start()
        peer = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        for _ in range(3):
            await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.01)") for _ in range(6)))
            waiting = asyncio.create_task(database.fetch("SELECT pg_sleep(20)"))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(own_postgres.kill)
            with pytest.raises(TransientError):
                await waiting
            # Other sockets take the numbers of those that libpq closed.
            others = [await asyncio.open_connection(*peer.sockets[0].getsockname()) for _ in range(6)]
            assert not await database.ping()
            await asyncio.to_thread(own_postgres.stop)
            await asyncio.to_thread(own_postgres.start)
            await database.start()
            assert await database.ping()
            for _, writer in others:
                writer.close()
                await writer.wait_closed()
        peer.close()
        await peer.wait_closed()
        await database.stop()

    uvloop.run(work())


async def test_the_host_that_can_be_written_to_is_found_among_several(database_url: str) -> None:
    port = database_url.split(":")[3].split("/", maxsplit=1)[0]
    several = database_url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{_free_port()},127.0.0.1:{port}")
    async with open_database(several) as database:
        assert await database.ping()


async def test_a_statement_that_takes_too_long_is_transient_and_a_cancel_stays_a_cancel(
    database_url: str,
) -> None:
    async with open_database(database_url, database_statement_timeout_s=0.1) as database:
        with pytest.raises(TransientError) as caught:
            await database.fetch("SELECT pg_sleep(5)")
        assert caught.value.reason == "statement_timeout"
        assert await database.ping()
    async with open_database(database_url) as database:
        task = asyncio.create_task(database.fetch("SELECT pg_sleep(5)"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await database.fetch("SELECT pg_sleep(5)")
        assert await database.ping()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("is_there", [False, True], ids=["away", "there"])
def test_a_cancel_is_heard_at_whatever_moment_it_comes(
    database_url: str, is_there: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def cancelled_after(turns: int) -> asyncio.Task[None]:
        async def ask_for_good() -> None:
            while True:
                await database.start()
                await database.fetch("SELECT 1")

        database = _database(database_url if is_there else "postgresql://u:p@127.0.0.1:1/d")
        task = asyncio.create_task(ask_for_good())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        _, still = await asyncio.wait({task}, timeout=2)
        task.cancel()
        await asyncio.wait({task})
        await database.stop()
        assert not still, f"a cancel after {turns} turns of the loop was not heard"
        return task

    async def main() -> None:
        for turns in range(40):
            assert (await cancelled_after(turns)).cancelled()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_host_that_became_read_only_empties_the_pool(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch("CREATE TABLE t (n int)")
        name = database_url.rpartition("/")[2]
        run_sql(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        [(pid,)] = await database.fetch("SELECT pg_backend_pid()")
        await database.fetch("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        with pytest.raises(TransientError) as caught:
            await database.fetch("INSERT INTO t VALUES (1)")
        assert caught.value.reason == "database_read_only"
        run_sql(database_url, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
        await database.fetch("INSERT INTO t VALUES (1)")
        assert await database.fetch("SELECT pg_backend_pid() <> %(pid)s", {"pid": pid}) == [(True,)]


async def test_a_connection_that_the_server_cut_is_transient_and_replaced(database_url: str) -> None:
    async with open_database(database_url) as database:
        with pytest.raises(TransientError):
            async with database.transaction() as tx:
                [(pid,)] = await tx.fetch("SELECT pg_backend_pid()")
                run_sql(database_url, f"SELECT pg_terminate_backend({pid}, 5000)")
                await tx.fetch("SELECT 1")
        assert await database.ping()


async def test_faulty_data_is_told_apart_and_the_transaction_leaves_nothing(database_url: str) -> None:
    async with open_database(database_url, database_pool_size=1) as database:
        await database.fetch("CREATE TABLE t (n int PRIMARY KEY)")
        with pytest.raises(RowError):
            async with database.transaction() as tx:
                await tx.fetch("INSERT INTO t VALUES (1)")
                await tx.fetch("INSERT INTO t VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as tx:
                await tx.fetch("INSERT INTO t VALUES (2)")
                raise ZeroDivisionError
        assert await database.fetch("SELECT * FROM t") == []
        with pytest.raises(ConfigError, match="notifyd migrate"):
            await database.fetch("SELECT * FROM message")
        assert await database.ping()


def test_aiopg_asks_nothing_of_select_but_what_we_answer() -> None:
    source = Path(aiopg.connection.__file__).read_text()
    assert re.findall(r"select\.\w+\([^)]*\)", source) == ["select.select([self._fileno], [], [], 0)"]


@pytest.mark.parametrize("others", [0, 1100])
def test_a_refused_connection_leaves_nothing_behind_that_spoils_the_next(
    others: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def try_often() -> list[str]:
        database = _database(f"postgresql://u:p@127.0.0.1:{_free_port()}/d")
        said = []
        for _ in range(6):
            with pytest.raises(TransientError) as caught:
                await database.start(wait=False)
            said.append(caught.value.message)
            gc.collect()
        return said

    with contextlib.ExitStack() as stack:
        # As in a process with many connections: the database's descriptor is above 1023.
        for _ in range(others):
            stack.enter_context(Path(os.devnull).open())
        said = uvloop.run(try_often())
    assert all("Connection refused" in text for text in said), said
    assert caplog.records == []
