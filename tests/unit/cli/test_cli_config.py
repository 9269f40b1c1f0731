"""`notifyd config` shows every setting and no secret; the reference page is what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notifyd.cli.main import run_command
from notifyd.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_the_reference_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert PAGE.read_text() == printed, "run: notifyd config --markdown > docs/reference/settings.md"


def test_the_page_depends_on_no_machine_and_no_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYD_POD_NAME", "this-host")
    monkeypatch.setenv("NOTIFYD_HTTP_PORT", "99")
    run_command(["config", "--markdown"])
    assert PAGE.read_text() == capsys.readouterr().out


def test_every_setting_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [f"NOTIFYD_{name.upper()}" for name in Settings.model_fields]
    assert not any(row["is_set"] for row in rows)
    assert all(row["description"] for row in rows)


def test_secrets_are_hidden_and_what_is_set_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYD_JWT_SECRET", "a-secret-of-more-than-32-bytes-in-length")
    monkeypatch.setenv("NOTIFYD_DATABASE_URL", "postgresql://me:hunter2@db/x")
    for arguments in (["config"], ["config", "--json"]):
        assert run_command(arguments) == 0
        text = capsys.readouterr().out
        assert "hunter2" not in text
        assert "a-secret" not in text
    rows = {row["name"]: row for row in json.loads(text)}
    assert rows["NOTIFYD_JWT_SECRET"]["value"] == "********"
    assert rows["NOTIFYD_JWT_SECRET"]["is_set"] is True


def test_units_come_with_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["config", "--json"])
    units = {row["name"]: row["unit"] for row in json.loads(capsys.readouterr().out)}
    assert units["NOTIFYD_DRAIN_S"] == "seconds"
    assert units["NOTIFYD_MESSAGE_MAX_BYTES"] == "bytes"
    assert units["NOTIFYD_KAFKA_SKIP_LOST_RECORDS"] == ""


def test_who_asks_because_a_setting_is_wrong_gets_the_list_and_the_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYD_HTTP_PORT", "many")
    assert run_command(["config"]) == 2
    captured = capsys.readouterr()
    assert "NOTIFYD_ADMIN_PORT=9090" in captured.out
    assert "NOTIFYD_HTTP_PORT" in captured.err


def test_without_strictness_an_unknown_variable_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYD_SETTINGS_STRICT", "false")
    monkeypatch.setenv("NOTIFYD_KAFKA_SERVER", "x")
    assert run_command(["config"]) == 0
    assert "notifyd: warning: NOTIFYD_KAFKA_SERVER is no setting" in capsys.readouterr().err
