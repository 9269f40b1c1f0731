"""The frame of the command line: exit codes, one line per error, help that loads little."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from notifyd.cli import main as cli
from notifyd.cli.main import run_command
from notifyd.errors import ConfigError, TransientError
from notifyd.version import VERSION

COMMANDS = [name for name, *_ in cli._COMMANDS]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `notifyd config` end with an error of the test's choice."""

    def install(error: BaseException) -> None:
        def config() -> None:
            raise error

        monkeypatch.setattr("notifyd.cli.config.config", config)

    return install


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"notifyd {VERSION}\n"


def test_help_groups_the_commands_and_starts_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    text = capsys.readouterr().out
    for part in ("notifyd dev", "notifyd send --to alice", "--role=persist", "Try it", "Operate", "Set up"):
        assert part in text
    for name in COMMANDS:
        assert name in text


def test_no_command_prints_the_help_and_counts_as_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 2
    assert "Usage: notifyd" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = {
        "contacts": ["set", "show", "rm"],
        "dlq": ["ls", "show", "stats", "replay", "discard", "export"],
        "inbox": ["verify"],
        "keys": ["new", "ls", "rotate"],
        "retention": ["run"],
        "sessions": ["end"],
        "webpush": ["keys"],
        "topics": ["create", "check", "groups"],
    }.get(name)
    for sub in group or [None]:
        assert run_command([name, *([sub] if sub else []), "--help"]) == 0
        assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sned"], "Did you mean 'send'?"),
        (["send", "--too", "alice"], "`notifyd send --help`"),
        (["run"], "Missing option '--role'"),
        (["--role=persists"], "did you mean persist?"),
        (["run", "--role="], "no role is named"),
        (["--role=persist", "config"], "does not go with 'config'"),
        (["send"], "to whom?"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("notifyd: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("bad", remedy="mend it"), 2, "notifyd: bad (mend it)\n"),
        (TransientError("no broker", remedy="start it"), 1, "notifyd: no broker (start it)\n"),
        (TransientError("two\nlines"), 1, "notifyd: two lines\n"),
        (typer.Exit(1), 1, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_end_has_its_exit_code(
    failing: Callable[[BaseException], None],
    error: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(error)
    assert run_command(["config"]) == code
    assert capsys.readouterr().err == said


def test_a_surprise_is_one_line_that_says_how_to_see_more(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyError("x"))
    assert run_command(["config"]) == 70
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "KeyError" in text
    assert "NOTIFYD_LOG_LEVEL=debug" in text


def test_a_surprise_shows_its_traceback_when_asked_for(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFYD_LOG_LEVEL", "debug")
    failing(KeyError("x"))
    assert run_command(["config"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from notifyd.cli.main import run_command; run_command(['--help']); "
        "print({'aiokafka', 'faust', 'aiohttp', 'pydantic', 'aiopg', 'structlog'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_reader_that_leaves_is_met_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "notifyd", "config"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1
