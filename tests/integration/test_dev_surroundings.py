"""`notifyd dev --infra-only` as a person runs it: up, found, ended in order or by force, started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from notifyd.dev.child import is_alive
from notifyd.dev.probe import answers
from notifyd.dev.session import dev_environment
from tests.fixtures.processes import NotifydProcess, ProcessStarter, run_notifyd
from tests.fixtures.system import children_of
from tests.fixtures.waiting import wait_until

Dev = Callable[..., NotifydProcess]


@pytest.fixture
def data() -> Iterator[Path]:
    """Where PostgreSQL's user can come when the tests run as root, unlike pytest's own folders."""
    directory = Path(tempfile.mkdtemp(prefix="notifyd-dev-"))
    directory.chmod(0o711)
    yield directory / "data"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def infra(start_notifyd: ProcessStarter, data: Path) -> Dev:
    """Start the surroundings on `data`, with what a person has set and no more."""

    def start(*args: str) -> NotifydProcess:
        name = f"dev-{len(start_notifyd.processes)}"
        return start_notifyd("dev", "--infra-only", "--json", "--data", str(data), *args, name=name)

    return start


def _env_of(process: NotifydProcess) -> dict[str, str]:
    """Return the settings that it printed."""

    def line() -> str:
        assert process.is_running, process.tail()
        return process.output if process.output.endswith("\n") else ""

    env: dict[str, str] = json.loads(wait_until(line, timeout_s=60, what="settings", every_s=0.05))["env"]
    return env


def _broker_answers(env: dict[str, str]) -> bool:
    host, _, port = env["NOTIFYD_KAFKA_BOOTSTRAP_SERVERS"].partition(":")
    return answers(host, int(port))


def test_it_makes_topics_and_schema_is_found_and_ends_leaving_no_process(infra: Dev, data: Path) -> None:
    process = infra()
    env = _env_of(process)
    assert _broker_answers(env)
    assert run_notifyd("topics", "check", env=env).returncode == 0
    assert run_notifyd("migrate", "--check", env=env).returncode == 0
    assert dev_environment(data, {}) == env
    children = children_of(process.pid)
    assert len(children) >= 2

    process.signal(signal.SIGINT)
    assert process.wait(timeout_s=20) == 0
    assert not any(is_alive(child) for child in children)
    assert not _broker_answers(env)
    assert dev_environment(data, {}) == {}


def test_the_database_stays_over_a_restart_and_over_a_kill(infra: Dev) -> None:
    process = infra()
    env = _env_of(process)
    with psycopg2.connect(env["NOTIFYD_DATABASE_URL"]) as link:
        link.cursor().execute("CREATE TABLE kept AS SELECT 1 AS one")
    link.close()
    assert process.sigterm() == 0

    second = infra()
    env = _env_of(second)
    children = children_of(second.pid)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    if sys.platform == "linux":
        wait_until(lambda: not any(is_alive(c) for c in children), what="the children to follow it")

    third = infra()
    env = _env_of(third)
    link = psycopg2.connect(env["NOTIFYD_DATABASE_URL"])
    with link.cursor() as cursor:
        cursor.execute("SELECT one FROM kept")
        assert cursor.fetchall() == [(1,)]
    link.close()
    assert third.sigterm() == 0


def test_a_second_one_on_the_same_folder_is_refused_in_one_line(infra: Dev, data: Path) -> None:
    first = infra()
    env = _env_of(first)
    second = run_notifyd("dev", "--infra-only", "--data", str(data))
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()[:1]
    assert f"another `notifyd dev` (process {first.pid}) runs on" in line
    assert _broker_answers(env)
    assert dev_environment(data, {}) == env


def test_a_stop_in_the_middle_of_the_start_leaves_nothing(infra: Dev, data: Path) -> None:
    process = infra()
    wait_until(lambda: "starting PostgreSQL" in process.log, what="PostgreSQL to be on its way")
    process.signal(signal.SIGTERM)
    children = children_of(process.pid)
    assert process.wait(timeout_s=30) == 0
    assert not any(is_alive(child) for child in children)
    assert _broker_answers(_env_of(infra()))


def test_a_port_in_use_is_told_before_anything_is_started(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_notifyd("dev", "--data", str(data), "--http-port", str(port), "--admin-port", "0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"notifyd: port {port} on 127.0.0.1 is in use"
        " (end what listens there, or choose another with --http-port (0: any free one))"
    ]
    assert not data.exists()


def test_a_dead_broker_ends_it_with_a_line_that_says_so(infra: Dev, data: Path) -> None:
    process = infra()
    _env_of(process)
    os.kill(int((data / "broker" / "broker.pid").read_text().split()[0]), signal.SIGKILL)
    assert process.wait(timeout_s=20) == 1
    assert "the embedded broker" in process.log.splitlines()[-1]
    assert "has ended" in process.log.splitlines()[-1]
