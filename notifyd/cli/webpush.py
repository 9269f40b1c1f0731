"""`notifyd webpush keys`: what browsers know us by."""

from __future__ import annotations

from typing import Annotated

import typer

from notifyd.cli.output import emit, emit_json

app = typer.Typer(help="Set up web push.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    # With a callback typer keeps `keys` a subcommand while it is the only one.
    pass


@app.command("keys")
def keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Make a VAPID key pair and print it; nothing is stored.

    The private key goes to the role `deliver` as a secret. The public one goes to your page, as
    `applicationServerKey`. Every subscription is bound to the pair: with another one browsers have to
    subscribe again.

    Example: notifyd webpush keys >> .env
    """
    from notifyd.channels.webpush_request import new_keys

    private, public = new_keys()
    if as_json:
        emit_json({"private": private, "public": public})
    else:
        emit(f"NOTIFYD_WEBPUSH_KEY={private}")
        emit(f"# applicationServerKey: {public}")
