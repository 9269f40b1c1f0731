"""What `notifyd send --wait` does: watch the traces of messages until each is final."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from notifyd.cli.output import emit, emit_json, note

if TYPE_CHECKING:
    from notifyd.producer import Confirmation
    from notifyd.settings import Settings

_POLL_S: Final = 0.1
#: Ends that are final, and not what the sender wanted.
_BAD: Final = frozenset({"dead", "failed", "expired"})


async def wait_for_end(
    settings: Settings, messages: Sequence[Confirmation], *, as_json: bool, limit_s: float
) -> bool:
    """Print each message with its state once that is final; true: all of them ended well within `limit_s`."""
    from notifyd.metrics import Metrics
    from notifyd.store.pool import Database
    from notifyd.store.trace import read_trace

    open_messages = {message.id: message for message in messages}
    traces: dict[str, dict[str, Any] | None] = {}
    is_good = True
    deadline = time.monotonic() + limit_s
    database = Database(settings, Metrics(), application="notifyd-send")
    await database.start(wait=False)
    try:
        while open_messages:
            for message_id in tuple(open_messages):
                trace = traces[message_id] = await read_trace(database, message_id)
                if trace is not None and trace["state"] in ("done", "dead"):
                    is_good &= _tell(open_messages.pop(message_id), trace, as_json=as_json)
            if not open_messages or time.monotonic() >= deadline:
                break
            await asyncio.sleep(_POLL_S)
    finally:
        await database.stop()
    for message_id, message in open_messages.items():
        is_good = False
        _print(message, state_of(traces[message_id]), as_json=as_json)
        note(f"notifyd: {message_id}: {describe_hang(traces[message_id], limit_s)}")
    return is_good


def _tell(message: Confirmation, trace: dict[str, Any], *, as_json: bool) -> bool:
    bad = [item for item in trace["deliveries"] if item["state"] in _BAD]
    _print(message, trace["state"], as_json=as_json)
    if trace["position"] is not None and trace["position"] != message.position:
        note(
            f"notifyd: {message.id} was sent before, at {trace['position']}: this is the state of that one "
            "(if this one says something else, it is dead: `notifyd dlq ls --reason id_conflict`)"
        )
    for item in bad:
        events = [event for event in item["events"] if event.get("reason")]
        reason = f" ({events[-1]['reason']})" if events else ""
        note(f"notifyd: {message.id}: {item['channel']} to {item['user']} is {item['state']}{reason}")
    if trace["state"] == "dead" and not bad:
        note(f"notifyd: {message.id} is dead; `notifyd dlq ls` says why")
    return not bad and trace["state"] == "done"


def _print(message: Confirmation, state: str, *, as_json: bool) -> None:
    if as_json:
        emit_json({"id": message.id, "position": message.position, "state": state})
    else:
        emit(f"{message.id} {message.position} {state}")


def state_of(trace: dict[str, Any] | None) -> str:
    """Name the state of a message that is not final: `accepted` where only the broker has it."""
    return "accepted" if trace is None else str(trace["state"])


def describe_hang(trace: dict[str, Any] | None, limit_s: float) -> str:
    """Say in which state a message hangs, and how to look further."""
    if trace is None:
        return (
            f"the broker has it, but it was not stored within {limit_s:g} s; is `persist` running? "
            "If it does not come: `notifyd dlq ls`"
        )
    waiting = [
        f"{item['channel']} to {item['user']} is {item['state']}"
        for item in trace["deliveries"]
        if item["state"] not in ("acked", "sent", "skipped", *_BAD)
    ]
    detail = "; ".join(waiting[:3]) or str(trace["state"])
    more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
    hint = ""
    if any(item["channel"] == "ws" for item in trace["deliveries"]):
        hint = " (ws waits for the user to connect: `notifyd listen --user ...`)"
    further = f"look further with `notifyd trace {trace['id']}`"
    return f"not final after {limit_s:g} s: {detail}{more}{hint}; {further}"
