"""`notifyd trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from notifyd.cli.output import emit_json, is_terminal, note, read_settings, run_async
from notifyd.errors import ConfigError

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.store.trace import MessageLife

_POLL_S: Final = 0.25
#: Wide enough for a pipe or a file: nothing is wrapped there.
_PLAIN_COLUMNS: Final = 240


def trace(
    message_id: Annotated[str, typer.Argument(metavar="UUID", help="The Global_ID that `send` printed.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it until it is final; one that is not there is awaited.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON (with --watch per change).")
    ] = False,
) -> None:
    """Print the life of a message: every stage of each recipient and channel, when, and by which pod.

    Reads the database of NOTIFYD_DATABASE_URL. Times are UTC. An id that nobody has seen: exit
    code 1, and with --json {"error": "not_found"}.

    Example:

        notifyd trace 019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11 --watch
    """
    from notifyd.message.ids import is_uuid

    if is_uuid(message_id) is None:
        raise ConfigError(
            f"{message_id[:60]!r} is no UUID",
            reason="bad_argument",
            remedy="it looks like 019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11; `notifyd send` prints it",
        )
    settings = read_settings()
    if not run_async(_follow(settings, message_id, as_json=as_json, watch=watch)):
        if as_json:
            emit_json({"error": "not_found"})
        else:
            note(f"notifyd: nobody has seen {message_id} (if it was just sent, try --watch)")
        raise typer.Exit(1)


async def _follow(settings: Settings, message_id: str, *, as_json: bool, watch: bool) -> bool:
    """Print the life, with `watch` until its end; False: nobody has seen it."""
    import asyncio

    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database
    from notifyd.store.trace import read_life

    database = Database(settings, Metrics(), application="notifyd-trace")
    await database.start(wait=False)
    try:
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
    finally:
        await database.stop()


def _print(life: MessageLife, *, as_json: bool) -> None:
    if as_json:
        emit_json(life.as_json())
        return
    from rich.console import Console

    from notifyd.cli.timeline import draw

    Console(width=None if is_terminal() else _PLAIN_COLUMNS, highlight=False).print(draw(life))


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

        self._live.update(draw(life), refresh=True)
