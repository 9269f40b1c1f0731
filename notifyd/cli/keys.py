"""`notifyd keys new|ls|rotate`: the keys that messages are encrypted with at rest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async
from notifyd.errors import ConfigError

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.store.pool import Database

app = typer.Typer(
    help="Look after the keys that messages are encrypted with at rest.",
    no_args_is_help=True,
    add_completion=False,
)

#: A day's messages are read as a whole, their first bytes.
_STATEMENT_S: Final = 300.0

T = TypeVar("T")


@app.command("new")
def new(
    key_id: Annotated[
        str | None, typer.Option("--id", help="Its id: 1 to 32 of a-z, 0-9, '.', '_', '-'. Default: today.")
    ] = None,
) -> None:
    """Print a new random key, as an entry of NOTIFYD_CONTENT_KEYS.

    Example:

        export NOTIFYD_CONTENT_KEYS="$(notifyd keys new),$NOTIFYD_CONTENT_KEYS"
    """
    from notifyd.content_keys import new_content_key

    try:
        emit(new_content_key(key_id or dt.datetime.now(dt.UTC).strftime("%Y%m%d")))
    except ValueError as error:
        raise ConfigError(f"--id: {error}", reason="bad_argument") from None


@app.command("ls")
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per key.")] = False,
) -> None:
    """Count stored messages by the key that they take. A key without any may be dropped.

    Exit code 1 where messages take a key that NOTIFYD_CONTENT_KEYS does not hold.

    Example:

        notifyd keys ls --json
    """
    from notifyd.store.rotation import count_keys

    settings = read_settings()
    counts = dict(run_async(_with_database(settings, count_keys)))
    held = _held(settings)
    counts.update({key_id: 0 for key_id in held if key_id not in counts})
    missing = False
    for key_id, count in sorted(counts.items(), key=lambda item: item[0] or ""):
        is_held = key_id is None or key_id in held
        missing |= not is_held
        writes = key_id == next(iter(held), None)
        if as_json:
            emit_json({"key": key_id, "messages": count, "held": is_held, "writes": writes})
        else:
            name = "not encrypted" if key_id is None else key_id
            marks = "".join([", writes" if writes else "", "" if is_held else ", MISSING here"])
            emit(f"{name}: {count} messages{marks}")
    if missing:
        note("notifyd: add the missing keys to NOTIFYD_CONTENT_KEYS: what they encrypted cannot be read")
        raise typer.Exit(1)


@app.command("rotate")
def rotate(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Encrypt with the first key of NOTIFYD_CONTENT_KEYS what is not: old messages, and those of other keys.

    Beside a running system, 64 messages a transaction; cut off, it is gone on with by the next. Every process
    must have the key before. Exit code 1 where messages take a key that is not there: they are left.

    Example:

        notifyd keys rotate
    """
    from notifyd.store.rotation import rotate as rotate_keys

    async def work(database: Database) -> tuple[int, dict[str, int], list[str]]:
        done = await rotate_keys(database, lambda day, count: note(f"{day} ... {count}"))
        return done.sealed, dict(done.left), [str(error) for error in done.errors.values()]

    sealed, left, errors = run_async(_with_database(read_settings(), work))
    if as_json:
        emit_json({"encrypted": sealed, "left": left})
    else:
        emit(f"encrypted {sealed} messages")
    for key_id, text in zip(left, errors, strict=True):
        note(f"notifyd: {left[key_id]} messages are left: {text}")
    if left:
        raise typer.Exit(1)


def _held(settings: Settings) -> list[str]:
    from notifyd.content_keys import parse_content_keys

    return (
        []
        if settings.content_keys is None
        else list(parse_content_keys(settings.content_keys.get_secret_value()))
    )


async def _with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database

    patient = settings.model_copy(update={"database_statement_timeout_s": _STATEMENT_S})
    database = Database(patient, Metrics(), application="notifyd-keys")
    await database.start(wait=False)
    try:
        return await work(database)
    finally:
        await database.stop()
