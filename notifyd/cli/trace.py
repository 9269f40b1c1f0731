"""`notifyd trace`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from notifyd.cli.output import emit, emit_json, is_terminal, note, read_settings, run_async
from notifyd.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from notifyd.settings import Settings
    from notifyd.store.deliveries import FoundDeliveries, UserMessage
    from notifyd.store.life import MessageLife
    from notifyd.store.pool import Database

_POLL_S: Final = 0.25
#: Wide enough for a pipe or a file: nothing is wrapped there.
_PLAIN_COLUMNS: Final = 240
#: How long a search through a user's inbox may take.
_BUDGET_S: Final = 10.0

T = TypeVar("T")


def trace(  # noqa: PLR0917  typer calls it by name
    message_id: Annotated[
        str | None, typer.Argument(metavar="UUID", help="The Global_ID that `send` printed.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it until it is final; one that is not there is awaited.")
    ] = False,
    user: Annotated[
        str | None, typer.Option("--user", help="Instead: the latest messages of this user.")
    ] = None,
    slowest: Annotated[
        bool, typer.Option("--slowest", help="Instead: deliveries that took longest to succeed or die.")
    ] = False,
    stuck: Annotated[
        bool, typer.Option("--stuck", help="Instead: open deliveries of which nobody has spoken for long.")
    ] = False,
    since: Annotated[
        str, typer.Option("--since", metavar="SPAN", help="With --slowest: accepted so long ago at most.")
    ] = "1h",
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="SPAN", help="With --stuck: silent for so long at least.")
    ] = "5m",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Of a list: how many.")] = 20,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON per life, change or entry."),
    ] = False,
) -> None:
    """Print the life of a message: every stage of each recipient and channel, when, and by which pod.

    With --user, --slowest or --stuck a list instead, whose ids lead on. Reads the database of
    NOTIFYD_DATABASE_URL. Times are UTC. An id that nobody has seen: exit code 1, and with --json
    {"error": "not_found"}.

    Example:

        notifyd trace 019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11 --watch

        notifyd trace --stuck --older-than 15m --json
    """
    if sum((message_id is not None, user is not None, slowest, stuck)) != 1:
        raise typer.BadParameter("give a UUID, or one of --user, --slowest and --stuck", param_hint="UUID")
    if watch and message_id is None:
        raise typer.BadParameter("follows one message, so it goes with a UUID", param_hint="--watch")
    if user is not None:
        _show_messages(user, limit, as_json=as_json)
    elif slowest or stuck:
        _show_deliveries(_span("--since", since), _span("--older-than", older_than), limit, slowest, as_json)
    elif message_id is not None:
        _show_life(message_id, as_json=as_json, watch=watch)


# One message


def _show_life(message_id: str, *, as_json: bool, watch: bool) -> None:
    from notifyd.message.ids import is_uuid

    if is_uuid(message_id) is None:
        raise ConfigError(
            f"{message_id[:60]!r} is no UUID",
            reason="bad_argument",
            remedy="it looks like 019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11; `notifyd send` prints it",
        )

    async def follow(database: Database) -> bool:
        return await _follow(database, message_id, as_json=as_json, watch=watch)

    if not run_async(_with_database(read_settings(), follow)):
        if as_json:
            emit_json({"error": "not_found"})
        else:
            note(f"notifyd: nobody has seen {message_id} (if it was just sent, try --watch)")
        raise typer.Exit(1)


async def _follow(database: Database, message_id: str, *, as_json: bool, watch: bool) -> bool:
    """Print the life, with `watch` until its end; False: nobody has seen it."""
    import asyncio

    from notifyd.store.trace import read_life

    life = await read_life(database, message_id)
    if not watch:
        if life is not None:
            _print(life, as_json=as_json)
        return life is not None
    with _Screen(as_json=as_json) as screen:
        while True:
            screen.show(life)
            if life is not None and life.is_final:
                return True
            await asyncio.sleep(_POLL_S)
            life = await read_life(database, message_id)


def _print(life: MessageLife, *, as_json: bool) -> None:
    if as_json:
        emit_json(life.as_json())
        return
    from notifyd.cli.timeline import draw

    console = _console()
    console.print(draw(life, is_ascii=_is_ascii(console)))


class _Screen:
    """Shows a life that changes: redrawn in place on a terminal, else printed at each change."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown: MessageLife | None = None
        self._live: Any = None

    def __enter__(self) -> _Screen:
        if is_terminal() and not self._as_json:
            from rich.live import Live

            self._live = Live("waiting for the message ...", auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, life: MessageLife | None) -> None:
        if life is None or life == self._shown:
            return
        self._shown = life
        if self._live is None:
            _print(life, as_json=self._as_json)
            return
        from notifyd.cli.timeline import draw

        self._live.update(draw(life, is_ascii=_is_ascii(self._live.console)), refresh=True)


# Lists


def _show_messages(user: str, limit: int, *, as_json: bool) -> None:
    from notifyd.store.deliveries import read_user_messages

    async def read(database: Database) -> tuple[list[UserMessage], bool]:
        return await read_user_messages(database, user, limit=limit, budget_s=_BUDGET_S)

    messages, has_more = run_async(_with_database(read_settings(), read))
    if as_json:
        for one in messages:
            emit_json(one.as_json())
        return
    from notifyd.cli.timeline import clean, time_of_day

    for one in messages:
        found = one.message
        parts = [
            f"{clean(d.channel)} {d.state}{f' ({clean(d.reason)})' if d.reason else ''}"
            for d in one.deliveries
        ]
        what = clean(found.type or "-")
        emit(
            f"{found.id}  {time_of_day(found.accepted_at)}  {clean(found.sender)}  {what}  {', '.join(parts)}"
        )
    if has_more:
        note("notifyd: there are older ones; --limit shows more")
    if not messages:
        note(f"notifyd: nothing has come into the inbox of {clean(user)}")


def _show_deliveries(since_s: float, silent_s: float, limit: int, is_slowest: bool, as_json: bool) -> None:
    from notifyd.store.deliveries import SCAN_ROWS, find_slowest, find_stuck

    async def read(database: Database) -> FoundDeliveries:
        if is_slowest:
            begin = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=since_s)
            return await find_slowest(database, since=begin, limit=limit)
        return await find_stuck(database, silent_s=silent_s, limit=limit)

    found = run_async(_with_database(read_settings(), read))
    if as_json:
        for one in found.deliveries:
            emit_json(one.as_json())
    else:
        from notifyd.cli.timeline import clean, gap, time_of_day

        for one in found.deliveries:
            whom = f"{one.message_id}  {clean(one.user)} by {clean(one.channel)}: {one.state}"
            why = ", ".join(clean(part) for part in (one.reason, one.detail) if part)
            if one.reached_at is not None:
                took = gap((one.reached_at - one.since).total_seconds())[1:]
                emit(f"{took:>8}  {whom}  attempts {one.attempts}{f'  {why}' if why else ''}")
            elif one.waits_for is not None:
                until = f", until {time_of_day(one.waits_for.until)}" if one.waits_for.until else ""
                emit(
                    f"{time_of_day(one.since)}  {whom}  waits for {one.waits_for.what}{until}"
                    f"{f'  {why}' if why else ''}"
                )
        if not found.deliveries:
            note("notifyd: nothing was delivered since" if is_slowest else "notifyd: nothing is stuck")
    if found.is_partial:
        note(f"notifyd: there was more than is looked at: these are out of {SCAN_ROWS:,} rows")


# Both


async def _with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database

    database = Database(settings, Metrics(), application="notifyd-trace")
    await database.start(wait=False)
    try:
        return await work(database)
    finally:
        await database.stop()


def _span(option: str, text: str) -> float:
    """Read a span of time, as `90s`, `15m` or `1h30m`, in seconds."""
    from notifyd.message.times import parse_duration_s

    seconds = parse_duration_s(text)
    if seconds is None:
        raise typer.BadParameter(
            f"{text[:40]!r} is no span of time; write 90s, 15m or 1h30m", param_hint=option
        )
    return seconds


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if is_terminal() else _PLAIN_COLUMNS, highlight=False)


def _is_ascii(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")
