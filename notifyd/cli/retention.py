"""`notifyd retention run`: drop what is older than the settings keep."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.store.retention import Done, Partition, Plan

app = typer.Typer(
    help="Keep the database as small as it should be.", no_args_is_help=True, add_completion=False
)

#: Detaching waits for whoever reads the table now, a long report for example.
_STATEMENT_S: Final = 300.0


@app.callback()
def _group() -> None:
    # With a callback typer keeps `run` a subcommand while it is the only one.
    pass


@app.command("run")
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Drop the days that are past NOTIFYD_RETENTION_..._DAYS, and make the partitions of the next ones.

    For a daily job, beside a running system: partitions are detached and dropped, nobody waits for
    that. One that is cut off is taken up by the next. Exit code 1 where something was held by others.

    Example:

        notifyd retention run --dry-run
    """
    settings = read_settings()
    if dry_run:
        plan = run_async(_work(settings, is_dry=True))
        _show_plan(plan, as_json=as_json)
        return
    done = run_async(_work(settings, is_dry=False))
    _show_done(done, as_json=as_json)
    if done.held:
        note("notifyd: others hold some tables; the next run takes them up")
        raise typer.Exit(1)


async def _work(settings: Settings, *, is_dry: bool) -> Any:
    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database
    from notifyd.store.retention import Retention

    patient = settings.model_copy(update={"database_statement_timeout_s": _STATEMENT_S})
    database = Database(patient, Metrics(), application="notifyd-retention")
    await database.start(wait=False)
    try:
        retention = Retention(database, settings, dt.datetime.now(dt.UTC))
        if is_dry:
            return await retention.plan()
        return await retention.run(lambda name: note(f"dropping {name} ..."))
    finally:
        await database.stop()


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "drop": [_told(one) for one in plan.drop],
                "make": [day.isoformat() for day in plan.make],
                "attach": [day.isoformat() for day in plan.attach],
                "rows": plan.rows,
            }
        )
        return
    for one in plan.drop:
        emit(f"drop {one.name} {one.bytes} bytes {one.state}")
    for verb, days in (("make", plan.make), ("attach again", plan.attach)):
        for day in days:
            emit(f"{verb} the partitions of {day}")
    for table, count in plan.rows.items():
        if count:
            emit(f"delete {count} rows of {table}")
    if not (plan.drop or plan.make or plan.attach or any(plan.rows.values())):
        emit("nothing to do")


def _show_done(done: Done, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "dropped": [_told(one) for one in done.dropped],
                "held": [_told(one) for one in done.held],
                "rows": done.rows,
            }
        )
        return
    size = sum(one.bytes for one in done.dropped)
    emit(f"dropped {len(done.dropped)} partitions, {size} bytes; deleted {sum(done.rows.values())} rows")
    for one in done.held:
        emit(f"held by others: {one.name}")


def _told(one: Partition) -> dict[str, Any]:
    return {
        "table": one.table,
        "partition": one.name,
        "day": one.day.isoformat(),
        "bytes": one.bytes,
        "state": one.state,
    }
