"""`notifyd sweep --dry-run`: what the role `sweep` would do now."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings

#: How long `persist` may take to store what was written before the question.
_WAIT_S = 30.0


def sweep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Required: the work itself is that of `notifyd --role=sweep`.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Deliveries to look at.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Say what the sweep would do about each delivery that is past its deadline, and change nothing.

    `resend`: its outcome is lost; `later`: whoever has to speak has not come to it; otherwise the state
    that it would end in, with the reason. Waits until `persist` has stored what was written before.

    Example:

        notifyd sweep --dry-run --limit 20
    """
    if not dry_run:
        raise typer.BadParameter(
            "say --dry-run; the work itself is done by `notifyd --role=sweep`", param_hint="--dry-run"
        )
    found = run_async(_look(read_settings(), limit))
    for one in found:
        if as_json:
            emit_json(one)
        else:
            why = f"  {one['reason']}" if one["reason"] else ""
            emit(f"{one['verdict']:8} {one['id']}  {one['user']}  {one['channel']}  {one['state']}{why}")
    if not found and not as_json:
        emit("nothing is past its deadline")


async def _look(settings: Settings, limit: int) -> list[dict[str, Any]]:
    from notifyd.delivery.overdue import judge
    from notifyd.errors import TransientError
    from notifyd.metrics import Metrics
    from notifyd.roles.outlook import Outlook
    from notifyd.store.pool import Database
    from notifyd.store.sweep import SweepStore
    from notifyd.stream.topics import read_incarnation

    database = Database(settings, Metrics(), application="notifyd-sweep-dry-run")
    store = SweepStore(database)
    outlook = Outlook(settings, await read_incarnation(settings), store)
    try:
        await database.start(wait=False)
        snapshot = await outlook.take()
        deadline = time.monotonic() + _WAIT_S
        while not await outlook.is_stored(snapshot):
            if time.monotonic() > deadline:
                raise TransientError(
                    f"persist has not stored within {_WAIT_S:g} s what was there: nothing can be judged",
                    reason="marks_behind",
                    remedy="look at the lag of group notifyd-persist",
                )
            note("waiting for persist to store what was written before ...")
            await asyncio.sleep(1)
        found = await store.peek_due(snapshot.at_ms, limit=limit)
    finally:
        await outlook.stop()
        await database.stop()
    now_ms, most = int(time.time() * 1000), settings.sweep_max_resends
    verdicts = [(one, judge(one, snapshot.progress, now_ms=now_ms, max_resends=most)) for one in found]
    return [
        {
            "verdict": getattr(verdict, "stage", type(verdict).__name__.lower()),
            "reason": getattr(verdict, "reason", getattr(verdict, "why", None)),
            "id": one.id,
            "user": one.user,
            "channel": one.channel,
            "state": one.state,
            "resends": one.resends,
        }
        for one, verdict in verdicts
    ]
