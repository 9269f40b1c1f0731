"""`notifyd dlq replay` and `discard`: what is done with dead letters, and who did it."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.dlq_options import (
    ActorOption,
    AllOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    YesOption,
    takes_selection,
)
from notifyd.cli.output import emit, emit_json, is_confirmed, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.delivery.audit import Action
    from notifyd.settings import Settings
    from notifyd.store.audit import Audit
    from notifyd.stream.replay import Selection


@takes_selection
def replay(  # noqa: PLR0917  what the command line takes
    selection: Selection,
    limit: LimitOption = None,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="So many a second at most.")] = 500.0,
    again: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give dead letters another chance: the same bytes again, for just that recipient and channel.

    What died as a whole record (invalid, too large) goes back to the topic that it was on. What is in the
    audit is passed over, so that a run that was cut off may simply be run again; at most 200 come twice
    then, under the ids that receivers know them by. Needs NOTIFYD_DATABASE_URL, for the audit.

    Examples:

        notifyd dlq replay --reason http_503 --since 2h --dry-run

        notifyd dlq replay --channel webhook --sender orders --rate 50 --yes
    """
    settings = read_settings()
    work = _Work(settings, selection, "replay", limit=limit, rate=rate, again=again)
    _carry_out(work, dry_run=dry_run, yes=yes, actor=actor, as_json=as_json)


@takes_selection
def discard(  # noqa: PLR0917  what the command line takes
    selection: Selection,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Note that nothing is to be done with dead letters: `replay` passes them over, `stats` counts them out.

    The records stay on the topic until its retention ends. Needs NOTIFYD_DATABASE_URL, for the audit.

    Example: notifyd dlq discard --reason bad_url --yes
    """
    settings = read_settings()
    work = _Work(settings, selection, "discard", limit=limit)
    _carry_out(work, dry_run=dry_run, yes=yes, actor=actor, as_json=as_json)


async def read_entries(settings: Settings, partition: int, offset: int) -> list[dict[str, str]] | None:
    """Return the audit of one dead letter; None where there is no database to ask."""
    async with audit_of(settings) as audit:
        if audit is None:
            return None
        found = await audit.entries(partition, offset)
    return [{"at": one.at, "actor": one.actor, "action": one.action} for one in found]


def _carry_out(work: _Work, *, dry_run: bool, yes: bool, actor: str | None, as_json: bool) -> None:
    """Count, ask, do it and tell; exit code 1 where somebody said no, or something was refused."""
    found = run_async(work.run(actor=None))
    if not dry_run:
        if not yes and not is_confirmed(f"{work.action} {found['done']} dead letters?"):
            raise typer.Exit(1)
        with _progress(found["done"]) as tell:
            found = run_async(work.run(actor=actor or getpass.getuser(), tell=tell))
    if as_json:
        emit_json({"action": work.action, "dry_run": dry_run, **found})
    else:
        told = {"replay": "replayed", "discard": "discarded"}[work.action]
        emit(f"{found['done']} {'would be ' if dry_run else ''}{told}, {found['before']} were handled before")
        for why, count in found["refused"].items():
            emit(f"{count} cannot be {told}: {why}")
    if found["refused"]:
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar where somebody looks at standard error, to be told how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(show_speed=True), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


class _Work:
    """One pass over the DLQ; without an actor it only counts. `settings` must name a database."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        action: Action,
        *,
        limit: int | None = None,
        rate: float = float("inf"),
        again: bool = False,
    ) -> None:
        from notifyd.errors import ConfigError

        if settings.database_url is None:
            raise ConfigError(
                "NOTIFYD_DATABASE_URL is not set, and there is no other place for the audit",
                reason="bad_setting",
                remedy="set it to where `persist` writes",
            )
        self.action = action
        self._settings = settings
        self._selection = selection
        self._options: dict[str, Any] = {"limit": limit, "rate": rate, "again": again}

    async def run(self, *, actor: str | None, tell: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Do it, and `tell` how many are done so far.

        Return how many were `done`, how many had been `before`, and why others were `refused`.
        """
        from contextlib import aclosing

        from notifyd.stream.dead_letter import read_dead_letters
        from notifyd.stream.dead_letter_work import DeadLetterWork
        from notifyd.stream.topics import Topics

        async with audit_of(self._settings) as audit, _producing(self._settings) as producer:
            assert audit is not None
            work = DeadLetterWork(
                self.action,
                self._selection,
                topics=Topics.of(self._settings),
                audit=audit,
                send=producer.send_each,
                **self._options,
            )
            letters = read_dead_letters(self._settings, since_ms=self._selection.since_ms)
            async with aclosing(letters):
                tally = await work.run(letters, actor=actor, tell=tell)
        refused = {why: len(places) for why, places in tally.refused.items()}
        return {"done": tally.done, "before": tally.before, "refused": refused}


@contextlib.asynccontextmanager
async def audit_of(settings: Settings) -> AsyncIterator[Audit | None]:
    """Open the audit; None where there is no database to ask."""
    from notifyd.metrics import Metrics
    from notifyd.store.audit import Audit
    from notifyd.store.migrate import require_schema
    from notifyd.store.pool import Database
    from notifyd.stream.topics import read_incarnation

    if settings.database_url is None:
        yield None
        return
    incarnation = await read_incarnation(settings)
    database = Database(settings, Metrics(), application="notifyd-dlq")
    await database.start(wait=False)
    try:
        await require_schema(database)
        yield Audit(database, incarnation)
    finally:
        await database.stop()


@contextlib.asynccontextmanager
async def _producing(settings: Settings) -> AsyncIterator[Any]:
    from notifyd.metrics import Metrics
    from notifyd.stream.producer import Producer

    producer = Producer(settings, Metrics(), client_id="notifyd-dlq")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop(1.0)
