"""`notifyd listen`: a terminal client of the push protocol."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyd.client import PushClient
    from notifyd.settings import Settings

#: A token is made anew for each connection; an hour is plenty for one.
_TTL_S = 3600.0


def listen(
    *,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Whose messages; needs NOTIFYD_JWT_SECRET.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Default: ws://localhost:<NOTIFYD_HTTP_PORT>/v1/push")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="A token to use instead of one made for --user.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every received frame as a line of JSON.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many messages.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="End after so many seconds; with --count unmet: exit 1."),
    ] = None,
    sse: Annotated[
        bool, typer.Option("--sse", help="Receive by server-sent events: another default for --url.")
    ] = False,
    no_ack: Annotated[bool, typer.Option("--no-ack", help="Do not acknowledge what is received.")] = False,
) -> None:
    """Receive a user's messages on this terminal until Ctrl-C.

    Messages go to standard output, the state of the connection to standard error.

    Example: notifyd listen --user alice --count 1 --timeout 30
    """
    settings = read_settings()
    source = _token_source(settings, user, token)
    here = f"localhost:{settings.http_port}/v1/push"
    address = url or (f"http://{here}/sse" if sse else f"ws://{here}")
    is_enough = run_async(
        _listen(address, source, as_json=as_json, count=count, timeout_s=timeout, acks=not no_ack)
    )
    if not is_enough:
        note(f"notifyd: fewer than {count} messages within {timeout:g} s")
        raise typer.Exit(1)


def _token_source(settings: Settings, user: str | None, token: str | None) -> str | Callable[[], str]:
    from notifyd.errors import ConfigError
    from notifyd.push.auth import issue_token

    if token is not None:
        return token
    if user is None:
        raise ConfigError("whose messages?", reason="no_user", remedy="give --user NAME, or --token TOKEN")
    issue_token(settings, user)  # a missing secret is told now, not at the first connection
    return lambda: issue_token(settings, user, ttl_s=_TTL_S)


async def _listen(
    url: str,
    source: str | Callable[[], str],
    *,
    as_json: bool,
    count: int | None,
    timeout_s: float | None,
    acks: bool,
) -> bool:
    """Print frames until `count` messages came or the time is over; False when too few came."""
    from notifyd.client import PushClient

    async with PushClient(url, source, acks=acks, on_connection=_say_state) as client:
        try:
            async with asyncio.timeout(timeout_s):
                await _print_frames(client, as_json, count)
        except TimeoutError:
            return count is None
    return True


async def _print_frames(client: PushClient, as_json: bool, count: int | None) -> None:
    received = 0
    async for frame in client:
        is_message = frame["op"] == "msg"
        if as_json:
            emit_json(frame)
        elif is_message:
            emit(_line_of(frame["message"]))
        elif frame["op"] == "state":
            note(f"notifyd: {frame['set']} on another device: {_printable(', '.join(frame['ids']))}")
        elif frame["op"] == "welcome" and frame.get("missing") == "inbox":
            note("notifyd: messages from while you were away are in the inbox")
        received += is_message
        if count is not None and received >= count:
            return


def _say_state(state: str, detail: str) -> None:
    note(f"notifyd: {state}: {detail}")


def _line_of(message: dict[str, Any]) -> str:
    """Tell a message in one line: time, id, sender, title, body."""
    content = message.get("content") or {}
    at = datetime.datetime.now().strftime("%H:%M:%S")
    texts = [str(content[name]) for name in ("title", "body") if content.get(name)]
    text = " - ".join(texts) or str(content.get("type") or "")
    return f"{at}  {message.get('UUID')}  {message.get('from')}: {_printable(text)}"


def _printable(text: str) -> str:
    """Take out what would steer the terminal: messages are others' input."""
    return "".join(c if c.isprintable() else " " for c in text)
