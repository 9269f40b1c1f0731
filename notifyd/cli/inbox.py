"""`notifyd inbox verify`: prove that the unread counters are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.store.verify import Verified

app = typer.Typer(help="Look after users' inboxes.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    # With a callback typer keeps `verify` a subcommand while it is the only one.
    pass


@app.command("verify")
def verify(
    user: Annotated[str | None, typer.Option("--user", help="This user alone.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Set right what is wrong.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Compare every user's unread counter with the rows of the inbox.

    Reads the database of NOTIFYD_DATABASE_URL, some hundred users at a time, beside a running system.
    Exit code 1 where something is wrong and was not set right.

    Example:

        notifyd inbox verify --json
    """
    settings = read_settings()
    found = run_async(_verify(settings, user, fix=fix))
    if as_json:
        drifts = [{"user": one.user, "kept": one.kept, "counted": one.counted} for one in found.drifts]
        emit_json({"ok": not found.drifts, "users": found.users, "fixed": fix, "wrong": drifts})
    else:
        for one in found.drifts:
            kept = "no counter" if one.kept is None else f"counter {one.kept}"
            emit(f"{one.user}: {kept}, {one.counted} unread{' (set right)' if fix else ''}")
        emit(f"{found.users} users, {len(found.drifts)} wrong")
    if found.drifts and not fix:
        note("notifyd: `notifyd inbox verify --fix` sets these right")
        raise typer.Exit(1)


async def _verify(settings: Settings, user: str | None, *, fix: bool) -> Verified:
    from rich.console import Console
    from rich.progress import Progress

    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database
    from notifyd.store.verify import count_users, verify_inboxes

    database = Database(settings, Metrics(), application="notifyd-verify")
    await database.start(wait=False)
    try:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("users", total=await count_users(database) or None)
            return await verify_inboxes(
                database, user=user, fix=fix, on_progress=lambda users: progress.advance(task, users)
            )
    finally:
        await database.stop()
