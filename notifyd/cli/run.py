"""`notifyd run --role=...`, which `notifyd --role=...` is short for."""

from __future__ import annotations

from typing import Annotated

import typer

from notifyd.cli.output import read_role_settings
from notifyd.roles.names import ROLES

RoleOption = Annotated[
    str,
    typer.Option("--role", metavar="ROLE[,ROLE...]", help=f"{', '.join(ROLES)}, or all (development only)."),
]


def run(role: RoleOption) -> None:
    """Run one or more roles until told to stop.

    In production one role a process, each in a Deployment of its own. Settings come from the
    environment: see `notifyd config`.

    Examples:

        notifyd run --role=persist

        notifyd --role=deliver,ws
    """
    run_roles(role)


def run_roles(text: str) -> None:
    """Run the roles named in `text` (comma separated); ends the command with their exit code."""
    from notifyd.roles.names import parse_roles

    roles = parse_roles(text)
    settings = read_role_settings()
    from notifyd.roles.process import run as run_process

    raise typer.Exit(run_process(settings, roles))
