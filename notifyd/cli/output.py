"""What all commands share: settings with warnings, one event loop, JSON lines, plain lines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from notifyd.settings import Settings

T = TypeVar("T")


def read_settings(*, is_role: bool = False, **overrides: Any) -> Settings:
    """Load the settings and send logs to standard error.

    A command (not a role) falls back on the surroundings that `notifyd dev` runs in this folder.
    Under NOTIFYD_SETTINGS_STRICT=false unknown variables are warned about.
    """
    import os

    from notifyd.log import configure_logging
    from notifyd.settings import load_settings, unknown_variables

    environ = dict(os.environ)
    if not is_role:
        from notifyd.dev.session import dev_environment

        environ.update(dev_environment())
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


def is_terminal() -> bool:
    """Whether standard output is a terminal, so that it may be made pretty."""
    return sys.stdout.isatty()
