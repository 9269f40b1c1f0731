"""The command `notifyd`: registers the commands, and turns every end into an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from notifyd.errors import ConfigError, NotifydError
from notifyd.roles.names import ROLES
from notifyd.version import VERSION

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERNAL: Final = 70
EXIT_INTERRUPTED: Final = 130

_TRY: Final = "Try it"
_OPERATE: Final = "Operate"
_SETUP: Final = "Set up"

#: Name, module under `notifyd.cli`, function or (a group) `app`, panel in the help.
_COMMANDS: Final = (
    ("dev", "dev", "dev", _TRY),
    ("send", "send", "send", _TRY),
    ("listen", "listen", "listen", _TRY),
    ("token", "token", "token", _TRY),
    ("validate", "validate", "validate", _TRY),
    ("run", "run", "run", _OPERATE),
    ("trace", "trace", "trace", _OPERATE),
    ("dlq", "dlq", "app", _OPERATE),
    ("sessions", "sessions", "app", _OPERATE),
    ("sweep", "sweep", "sweep", _OPERATE),
    ("inbox", "inbox", "app", _OPERATE),
    ("contacts", "contacts", "app", _OPERATE),
    ("forget", "forget", "forget", _OPERATE),
    ("scale-advice", "scale_advice", "scale_advice", _OPERATE),
    ("retention", "retention", "app", _OPERATE),
    ("keys", "keys", "app", _OPERATE),
    ("topics", "topics", "app", _SETUP),
    ("webpush", "webpush", "app", _SETUP),
    ("migrate", "migrate", "migrate", _SETUP),
    ("config", "config", "config", _SETUP),
    ("metrics", "metrics", "metrics", _SETUP),
)

_HELP: Final = """
Notifications from Kafka to every device of every user.

First steps, in two terminals:

    notifyd dev                                 # everything at once
    notifyd send --to alice --title Hi --wait   # see it arrive

In production, one role a process:

    notifyd --role=persist                      # or deliver, or ws

Settings are environment variables; `notifyd config` lists them. Exit codes: 0 good, 1 it failed,
2 wrong use or settings, 70 an error of notifyd itself.
"""


def build_app() -> typer.Typer:
    """Build the root command. The modules of commands import what is heavy inside their functions."""
    app = typer.Typer(
        name="notifyd",
        help=_HELP,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for name, module, attribute, panel in _COMMANDS:
        found = getattr(import_module(f"notifyd.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(found)
    return app


def _root(
    ctx: typer.Context,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE[,ROLE...]",
            help=f"Run a role: {', '.join(ROLES)}, or all (development only); as `notifyd run --role`.",
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"notifyd {VERSION}")
        raise typer.Exit
    if role is not None:
        if ctx.invoked_subcommand is not None:
            raise ConfigError(
                f"--role runs a role, it does not go with {ctx.invoked_subcommand!r}",
                reason="usage",
                remedy=f"`notifyd {ctx.invoked_subcommand} --help`",
            )
        from notifyd.cli.run import run_roles

        run_roles(role)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(EXIT_USAGE)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    code = run_command(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _quiet_pipe()
    raise SystemExit(code)


def run_command(arguments: list[str]) -> int:
    """Run one command line; return its exit code. No error leaves here as a traceback."""
    try:
        command = typer.main.get_command(build_app())
        code = command.main(arguments, prog_name="notifyd", standalone_mode=False)
    except NotifydError as error:
        _complain(str(error))
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except TyperException as error:
        ctx = getattr(error, "ctx", None)
        path = ctx.command_path if ctx is not None else "notifyd"
        _complain(f"{error.format_message()} (`{path} --help` says how to use it)")
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _quiet_pipe()
    except Exception as error:  # the outermost edge: a person gets a line, not a traceback
        if os.environ.get("NOTIFYD_LOG_LEVEL", "").lower() == "debug":
            traceback.print_exception(error)
        else:
            _complain(
                f"internal error: {type(error).__name__}: {error} "
                "(set NOTIFYD_LOG_LEVEL=debug for the traceback, and please report it)"
            )
        return EXIT_INTERNAL
    return code if isinstance(code, int) else 0


def _complain(text: str) -> None:
    # One line, whatever the text holds: scripts and logs read it.
    print("notifyd: " + " ".join(text.split()), file=sys.stderr)


def _quiet_pipe() -> int:
    # The reader went away (`notifyd dlq ls | head`): no traceback, not even at the interpreter's end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED
