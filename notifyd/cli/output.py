"""What all commands share: settings with warnings, one event loop, JSON lines, plain lines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from notifyd.settings import Settings

T = TypeVar("T")


def read_settings(**overrides: Any) -> Settings:
    """Load the settings of a command, and send logs to standard error.

    Where the environment names no broker, the surroundings that `notifyd dev` runs in this folder
    are taken. Under NOTIFYD_SETTINGS_STRICT=false unknown variables are warned about.
    """
    from notifyd.dev.session import dev_environment

    return _load({**os.environ, **dev_environment()}, overrides)


def read_role_settings() -> Settings:
    """Load the settings of a role: the environment alone, whatever runs in this folder."""
    return _load(dict(os.environ), {})


def _load(environ: dict[str, str], overrides: dict[str, Any]) -> Settings:
    from notifyd.log import configure_logging
    from notifyd.settings import load_settings, unknown_variables

    settings = load_settings(environ, **overrides)
    configure_logging(settings)
    for text in unknown_variables(environ):
        warn(text)
    return settings


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Ctrl-C cancels it, lets it clean up, and comes out as KeyboardInterrupt."""
    return asyncio.run(work)


def emit(text: str) -> None:
    """Print a line on standard output, at once: its reader may be a pipe that waits for it."""
    typer.echo(text)
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    emit(json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str))


def note(text: str) -> None:
    """Say something to the person at the terminal, apart from the output."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    typer.echo(f"notifyd: warning: {text}", err=True)


def check_user(settings: Settings, user: str) -> None:
    """Raise `ConfigError` for what can be no user id."""
    from notifyd.errors import ConfigError

    if not 0 < len(user) <= settings.message_max_user_id_chars or "\0" in user:
        raise ConfigError(
            f"a user id has 1 to {settings.message_max_user_id_chars} characters and no NUL",
            reason="bad_user_id",
        )


def is_confirmed(question: str) -> bool:
    """Ask on standard error, since the output may be read by a program, and read the answer."""
    note(f"{question} Type yes:")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_terminal() -> bool:
    """Whether standard output is a terminal, so that it may be made pretty."""
    return sys.stdout.isatty()
