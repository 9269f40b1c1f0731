"""`notifyd sessions end`: sign a user out of every connection."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import TYPE_CHECKING, Annotated

import typer

from notifyd.cli.output import check_user, emit, emit_json, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings

app = typer.Typer(help="End the push sessions of a user.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    # With a callback typer keeps `end` a subcommand while it is the only one.
    pass


@app.command("end")
def end(
    user: Annotated[str, typer.Argument(help="The user id.")],
    before: Annotated[
        str | None,
        typer.Option(
            "--before", help="RFC 3339: only sessions with a token issued before then. Default: now."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Close every push connection of USER whose token was issued before now, on all `ws` processes.

    They are closed with 4401, which is final: the client needs another token. A process that has heard of
    it also refuses such tokens, until it is restarted: that is no list of revoked tokens. Have your identity
    provider issue no more, and let tokens live for minutes.

    Returns once the broker has it. Tokens tell whole seconds: one of this very second counts as before.

    Examples:

        notifyd sessions end alice

        notifyd sessions end alice --before 2026-11-23T10:00:00Z
    """
    settings = read_settings()
    before_ms = _moment_ms(before)
    check_user(settings, user)
    run_async(_end(settings, user, before_ms))
    at = dt.datetime.fromtimestamp(before_ms / 1000, dt.UTC).isoformat().replace("+00:00", "Z")
    if as_json:
        emit_json({"user": user, "before": at})
    else:
        emit(f"sessions of {user} with a token issued before {at} are told to end")


def _moment_ms(text: str | None) -> int:
    from notifyd.errors import ConfigError
    from notifyd.message.times import parse_time_ms

    now_ms = math.ceil(time.time()) * 1000
    before_ms = now_ms if text is None else parse_time_ms(text)
    if before_ms is None or not 0 <= before_ms <= now_ms:
        raise ConfigError(
            f"--before {text!r} is no moment of the past",
            reason="usage",
            remedy="give one with its zone, such as 2026-11-23T10:00:00Z",
        )
    return before_ms


async def _end(settings: Settings, user: str, before_ms: int) -> None:
    from notifyd.metrics import Metrics
    from notifyd.stream.clients import probe_broker
    from notifyd.stream.producer import Producer
    from notifyd.stream.signals import end_sessions
    from notifyd.stream.topics import Topics

    await probe_broker(settings)  # an error at once, where a role would wait
    producer = Producer(settings, Metrics(), client_id="notifyd-sessions")
    await producer.start()
    try:
        await end_sessions(producer, Topics.of(settings), user, before_ms)
    finally:
        await producer.stop(1.0)
