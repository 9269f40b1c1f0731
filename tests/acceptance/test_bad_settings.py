"""What is set wrong is said in one line: what it is, which variable, what to do. Never a traceback."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from notifyd.settings import Settings
from tests.fixtures.kafka import environment_of
from tests.fixtures.processes import ProcessStarter, run_notifyd
from tests.fixtures.service import Service, with_database

NOBODY = "127.0.0.1:1"


@pytest.fixture
def taken_port() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line for people, which is the last; all before it are log lines of the process."""
    assert "Traceback" not in done.stderr, done.stderr
    *before, last = done.stderr.splitlines()
    for line in before:
        assert json.loads(line)["event"], done.stderr
    assert last.startswith("notifyd: "), done.stderr
    return last


def _fails(code: int, *words: str, args: tuple[str, ...], env: dict[str, str], logged: str = "") -> None:
    done = run_notifyd(*args, env=env, timeout_s=40)
    complaint = _complaint(done)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in complaint
    errors = [json.loads(line) for line in done.stderr.splitlines()[:-1]]
    reasons = [line.get("reason") for line in errors if line["level"] == "error"]
    assert reasons == ([logged] if logged else []), done.stderr


@pytest.mark.parametrize(
    ("role", "env", "words"),
    [
        (
            "persist",
            {"NOTIFYD_KAFKA_SERVER": "x"},
            ("NOTIFYD_KAFKA_SERVER ", "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS"),
        ),
        ("persists", {}, ("'persists'", "did you mean persist?")),
        ("quux", {}, ("'quux'", "deliver, persist, ")),
        ("", {}, ("no role", "deliver, persist, ")),
        ("persist", {}, ("no database", "NOTIFYD_DATABASE_URL=postgresql://")),
        (
            "persist",
            {"NOTIFYD_DATABASE_URL": "mysql://u:hunter2@h/d"},
            ("NOTIFYD_DATABASE_URL", "postgresql://"),
        ),
        ("persist", {"NOTIFYD_DATABASE_URL": "postgresql://u:hunter2@[h/d"}, ("NOTIFYD_DATABASE_URL", "%40")),
        ("persist", {"NOTIFYD_DATABASE_URL": "postgresql://u@h:99999/d"}, ("NOTIFYD_DATABASE_URL", "port")),
        ("ws", {}, ("NOTIFYD_JWT_SECRET", "NOTIFYD_JWT_JWKS_URL")),
        ("api", {}, ("NOTIFYD_JWT_SECRET", "NOTIFYD_JWT_JWKS_URL")),
        ("ws", {"NOTIFYD_JWT_SECRET": "hunter2"}, ("NOTIFYD_JWT_SECRET", "32 bytes", "openssl rand")),
        ("ws", {"NOTIFYD_JWT_JWKS_URL": "https://h/jwks"}, ("NOTIFYD_JWT_ISSUER", "NOTIFYD_JWT_AUDIENCE")),
        ("deliver", {"NOTIFYD_STUB_SCRIPT": "fly"}, ("NOTIFYD_STUB_SCRIPT", "'fly'", "words: done")),
        ("deliver", {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": "h:x"}, ("NOTIFYD_KAFKA_BOOTSTRAP_SERVERS", "9092")),
        ("deliver", {"NOTIFYD_ADMIN_PORT": "http"}, ("NOTIFYD_ADMIN_PORT", "integer")),
        ("deliver", {"NOTIFYD_DRAIN_S": "9"}, ("NOTIFYD_GRACE_S", "above NOTIFYD_DRAIN_S")),
        ("deliver", {"NOTIFYD_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, ("NOTIFYD_KAFKA_SASL_USERNAME",)),
    ],
    ids=lambda value: None,
)
def test_settings_are_judged_before_anything_is_begun_or_waited_for(
    role: str, env: dict[str, str], words: tuple[str, ...]
) -> None:
    nowhere = {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "NOTIFYD_ADMIN_PORT": "0", "NOTIFYD_HTTP_PORT": "0"}
    done = run_notifyd(f"--role={role}", env={**nowhere, **env}, timeout_s=20)
    complaint = _complaint(done)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "hunter2" not in complaint
    for word in words:
        assert word in complaint


@pytest.mark.parametrize("kind", ["ADMIN", "HTTP"])
def test_a_port_in_use_names_its_setting(settings: Settings, kind: str, taken_port: str) -> None:
    env = {**environment_of(settings), "NOTIFYD_ADMIN_PORT": "0", f"NOTIFYD_{kind}_PORT": taken_port}
    done = run_notifyd("--role=ws", env=env)
    assert done.returncode == 2
    complaint = _complaint(done)
    assert f"port {taken_port}" in complaint
    assert f"NOTIFYD_{kind}_PORT" in complaint


@pytest.mark.parametrize("role", ["deliver", "ws", "api"])
def test_missing_topics_are_an_error_with_the_command_that_makes_them(settings: Settings, role: str) -> None:
    _fails(
        1,
        settings.topic_prefix,
        "notifyd topics create",
        "NOTIFYD_TOPIC_PREFIX",
        args=(f"--role={role}",),
        env=environment_of(settings),
        logged="topic_missing",
    )


def test_what_the_database_refuses_is_told_at_once(service: Service, postgres_url: str) -> None:
    url = urlsplit(service.env["NOTIFYD_DATABASE_URL"])
    place = f"{url.hostname}:{url.port}"

    def with_url(netloc: str, path: str) -> dict[str, str]:
        return environment_of(
            with_database(service.settings, urlunsplit(("postgresql", netloc, path, "", "")))
        )

    wrong = with_url(f"{url.username}:hunter2@{place}", url.path)
    _fails(
        2,
        "password authentication failed",
        "NOTIFYD_DATABASE_URL",
        args=("--role=persist",),
        env=wrong,
        logged="database_refused",
    )
    _fails(2, "password authentication", "NOTIFYD_DATABASE_URL", args=("migrate",), env=wrong)
    _fails(
        2,
        '"nowhere" does not exist',
        "NOTIFYD_DATABASE_URL",
        args=("--role=all",),
        env=with_url(url.netloc, "/nowhere"),
        logged="database_missing",
    )


def test_a_database_without_the_schema_is_told_with_the_command_that_makes_it(
    service: Service, postgres_url: str
) -> None:
    # The server's own database: it is there and has no tables of ours.
    env = environment_of(with_database(service.settings, postgres_url))
    _fails(
        2,
        "0001_schema",
        "notifyd migrate",
        "NOTIFYD_DATABASE_URL",
        args=("--role=persist",),
        env=env,
        logged="database_schema",
    )


@pytest.mark.parametrize(
    "args", [("send", "--to", "alice", "--title", "Hi"), ("topics", "check"), ("dlq", "ls")]
)
def test_a_command_does_not_wait_for_a_broker_that_is_not_there(args: tuple[str, ...]) -> None:
    env = {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    _fails(1, f"{NOBODY}: connection refused", "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS", args=args, env=env)


def test_a_command_does_not_wait_for_a_database_that_is_not_there() -> None:
    env = {"NOTIFYD_DATABASE_URL": f"postgresql://u:hunter2@{NOBODY}/d"}
    _fails(
        1,
        "does not answer",
        "NOTIFYD_DATABASE_URL",
        args=("trace", "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11"),
        env=env,
    )


def test_a_role_waits_for_a_broker_that_is_not_there_and_says_so(start_notifyd: ProcessStarter) -> None:
    role = start_notifyd("--role=deliver", env={"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": NOBODY})
    line = role.wait_for_log("waiting_for_broker")
    assert NOBODY in line["detail"]
    assert "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS" in line["remedy"]
    assert role.get("/healthz")[0] == 200
    status, body = role.get("/readyz")
    assert status == 503
    assert not json.loads(body)["ready"]
    assert role.sigterm(timeout_s=5) == 0
