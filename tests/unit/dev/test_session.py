"""A second terminal finds the surroundings that run in its folder, and no others."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from notifyd.dev.child import is_alive, own_mark, started_at
from notifyd.dev.session import dev_environment, forget_session, write_session

ENV = {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "NOTIFYD_JWT_SECRET": "s" * 32}


def test_running_surroundings_are_found_and_their_file_is_the_owners_alone(tmp_path: Path) -> None:
    write_session(tmp_path, ENV)
    assert dev_environment(tmp_path, {}) == ENV
    assert stat.S_IMODE((tmp_path / "session.json").stat().st_mode) == 0o600


def test_a_variable_that_is_set_stays_and_a_named_broker_or_database_means_another_place(
    tmp_path: Path,
) -> None:
    write_session(tmp_path, ENV)
    assert "NOTIFYD_JWT_SECRET" not in dev_environment(tmp_path, {"NOTIFYD_JWT_SECRET": "mine"})
    assert dev_environment(tmp_path, {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}) == {}
    assert dev_environment(tmp_path, {"NOTIFYD_DATABASE_URL": "postgresql://x"}) == {}


def test_a_dead_session_is_ignored_although_its_pid_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps({"process": f"{os.getpid()} 1", "env": ENV}))
    assert dev_environment(tmp_path, {}) == {}
    path.write_text(json.dumps({"process": "999999999 1", "env": ENV}))
    assert dev_environment(tmp_path, {}) == {}


def test_no_file_a_broken_file_or_a_forgotten_one_is_no_session(tmp_path: Path) -> None:
    assert dev_environment(tmp_path / "nowhere", {}) == {}
    for text in ("", "[]", "{}", '{"process": 1, "env": 2}'):
        (tmp_path / "session.json").write_text(text)
        assert dev_environment(tmp_path, {}) == {}
    write_session(tmp_path, ENV)
    forget_session(tmp_path)
    assert dev_environment(tmp_path, {}) == {}


def test_a_mark_names_a_process_by_its_start_as_well() -> None:
    assert is_alive(own_mark(os.getpid()))
    assert not is_alive(f"{os.getpid()} {int(started_at(os.getpid()) or 0) + 1}")
    assert not is_alive("")
