"""`notifyd forget`."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from notifyd.cli.output import check_user, emit, emit_json, is_confirmed, note, read_settings, run_async
from notifyd.store.life import time_text

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.store.forget import Forgetting, Forgotten
    from notifyd.store.pool import Database

#: How often it is looked how far `persist` is.
_LOOK_S: Final = 0.5
#: A day's deliveries are read as a whole: no index is by user, for every write would pay for it.
_STATEMENT_S = 300.0


def forget(  # noqa: PLR0917  what the command line takes
    user: Annotated[str, typer.Argument(metavar="USER", help="The user id, as in `toUserIds`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what names the user, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: Annotated[
        str | None, typer.Option("--actor", help="On whose order, for the audit. Default: who runs this.")
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option("--wait", min=0, help="Seconds to wait for `persist` to store what was sent before."),
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Remove what is stored of a user; it cannot be undone.

    Inbox and contacts go. Deliveries and events stay under an alias, without their details. What was said
    to this user alone goes, and envelopes to several are written anew without them. An entry in the audit
    tells who, when and how many rows. Beside a running system, in small transactions; safe to run again.

    It begins once `persist` has stored all that was sent before. It does not reach Kafka's topics (a week, by
    default), backups, logs, and what the user sent. Messages to several that are still under way name the
    user until they have ended, and what `persist` has not stored in time will: run it again then (exit code
    1 says so).

    Example:

        notifyd forget alice --dry-run
    """
    settings = read_settings()
    check_user(settings, user)
    if dry_run:
        found, before = run_async(_count(settings, user))
        _show(user, found, before, 0, as_json=as_json, is_dry=True)
        return
    if not yes and not is_confirmed(f"Forget {user!r} for good?"):
        raise typer.Exit(1)
    found, before, behind = run_async(_forget(settings, user, actor or getpass.getuser(), wait_s))
    _show(user, found, before, behind, as_json=as_json, is_dry=False)
    if found.later:
        note(
            f"notifyd: {found.later} messages to several are under way and still name the user; run it again"
        )
    if behind:
        note(f"notifyd: {behind} records sent before are not stored yet, and may name the user; run it again")
    if found.later or behind:
        raise typer.Exit(1)


async def _count(settings: Settings, user: str) -> tuple[Forgotten, list[Forgetting]]:
    from notifyd.store.forget import count_rows, read_forgettings

    async with _open(settings) as database:
        return await count_rows(database, user), await read_forgettings(database, user)


async def _forget(
    settings: Settings, user: str, actor: str, wait_s: float
) -> tuple[Forgotten, list[Forgetting], int]:
    from notifyd.metrics import Metrics
    from notifyd.store.forget import forget as forget_rows
    from notifyd.store.forget import read_forgettings
    from notifyd.stream.clients import probe_broker
    from notifyd.stream.contact_marks import removal_records
    from notifyd.stream.producer import Producer
    from notifyd.stream.topics import Topics

    await probe_broker(settings)  # an error before anything was done
    async with _open(settings) as database:
        before = await read_forgettings(database, user)
        producer = Producer(settings, Metrics(), client_id="notifyd-forget")
        await producer.start()
        try:
            # Tombstones: compaction drops what was there of this user, and each `deliver` its copy.
            topic = Topics.of(settings).contacts
            partitions = range(await producer.partitions(topic))
            await producer.send_all(removal_records(topic, user, partitions))
        finally:
            await producer.stop(1.0)
        behind = await _wait_for_persist(settings, database, wait_s)
        found = await forget_rows(database, user, actor=actor, on_progress=lambda day: note(f"{day} ..."))
    return found, before, behind


async def _wait_for_persist(settings: Settings, database: Database, wait_s: float) -> int:
    """Return once all messages that are in Kafka now are rows; how many are not after `wait_s` seconds."""
    from notifyd.store.sweep import SweepStore
    from notifyd.stream.reading import end_offsets
    from notifyd.stream.topics import Topics, read_incarnation

    topic, incarnation = Topics.of(settings).messages, await read_incarnation(settings)
    ends = await end_offsets(settings, topic)
    deadline = time.monotonic() + wait_s
    is_told = False
    while True:
        marks = await SweepStore(database).marks(incarnation, topic, list(ends))
        behind = sum(max(0, end - marks.get(partition, 0)) for partition, end in ends.items())
        if not behind or time.monotonic() >= deadline:
            return behind
        if not is_told:
            is_told = True
            note(f"waits for `persist`, which is {behind} records behind ...")
        await asyncio.sleep(_LOOK_S)


@contextlib.asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Database]:
    from notifyd.metrics import Metrics
    from notifyd.store.migrate import require_schema
    from notifyd.store.pool import Database

    patient = settings.model_copy(update={"database_statement_timeout_s": _STATEMENT_S})
    database = Database(patient, Metrics(), application="notifyd-forget")
    await database.start(wait=False)
    try:
        await require_schema(database)
        yield database
    finally:
        await database.stop()


def _show(
    user: str, found: Forgotten, before: list[Forgetting], behind: int, *, as_json: bool, is_dry: bool
) -> None:
    if as_json:
        past = [
            {
                "begun_at": time_text(one.begun_at),
                "ended_at": time_text(one.ended_at),
                "actor": one.actor,
                "alias": one.alias,
                "counts": one.counts,
            }
            for one in before
        ]
        emit_json(
            {"user": user, "dry_run": is_dry, "counts": found.as_json(), "behind": behind, "before": past}
        )
        return
    for one in before:
        ended = "cut off" if one.ended_at is None else time_text(one.ended_at)
        emit(f"forgotten before: {time_text(one.begun_at)}, ended {ended}, by {one.actor}, as {one.alias}")
    verb = "names the user" if is_dry else "done"
    parts = [f"{name.replace('_', ' ')} {count}" for name, count in found.as_json().items() if count]
    emit(f"{verb}: {', '.join(parts) or 'nothing'}")
