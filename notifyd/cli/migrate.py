"""`notifyd migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 while a migration is pending.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Bring the database of NOTIFYD_DATABASE_URL to the schema of this release.

    Forward only, safe to run from many places at once, and again. With --check it says what is
    pending, for an init container that waits until another has migrated.

    Example:

        NOTIFYD_DATABASE_URL=postgresql://notifyd:secret@db:5432/notifyd notifyd migrate
    """
    settings = read_settings()
    from notifyd.store import migrate as migrations

    if check:
        pending = run_async(migrations.pending_migrations(settings))
        if as_json:
            emit_json({"ok": not pending, "pending": pending})
        else:
            for title in pending:
                emit(f"pending {title}")
            if not pending:
                emit("the database is up to date")
        raise typer.Exit(1 if pending else 0)
    applied = run_async(migrations.migrate(settings, lambda title: note(f"applying {title} ...")))
    if as_json:
        emit_json({"applied": applied})
        return
    for title in applied:
        emit(f"applied {title}")
    if not applied:
        emit("the database is up to date")
