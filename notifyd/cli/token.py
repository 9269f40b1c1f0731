"""`notifyd token`: a token for development."""

from __future__ import annotations

from typing import Annotated

import typer

from notifyd.cli.output import emit, read_settings


def token(
    user: Annotated[str, typer.Argument(help="The user id that the token speaks for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="notify:send or notify:ops; may be given several times."),
    ] = None,
    ttl: Annotated[float, typer.Option("--ttl", help="How long the token is valid, in seconds.")] = 3600.0,
) -> None:
    """Print a token for USER, alone on standard output.

    It is signed with NOTIFYD_JWT_SECRET, so it is for development; in production tokens come
    from your identity provider (NOTIFYD_JWT_JWKS_URL).

    Example: notifyd token alice --scope notify:send --ttl 600
    """
    from notifyd.push.auth import issue_token

    settings = read_settings()
    scopes = [part for text in scope or [] for part in text.replace(",", " ").split()]
    emit(issue_token(settings, user, scopes, ttl))
