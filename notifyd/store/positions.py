"""Positions of `ws` processes become rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from notifyd.delivery.pod import PodPosition, decode_position, is_position
from notifyd.store.batch import EventRecord, Refused
from notifyd.store.pool import Database
from notifyd.store.sql import query


def read_position(record: EventRecord) -> PodPosition | Refused | None:
    """Read a record of the events topic; None where it holds events."""
    if not is_position(record.value or b""):
        return None
    try:
        return decode_position(record.value or b"")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return Refused(record, "poison", f"is no position of a process: {error}")


async def write_positions(database: Database, incarnation: int, positions: Sequence[PodPosition]) -> None:
    """Write the last position of each process, in a transaction of its own: no row depends on it."""
    last = {position.boot: position for position in positions}
    rows = [
        {
            "boot": one.boot,
            "number": number,
            "pod": one.pod,
            "start": one.start.get(number, 0),
            "done": done,
            "connections": one.connections,
            "lasts": one.lasts_s,
        }
        for one in last.values()
        for number, done in one.done.items()
    ]
    if rows:
        params = {"incarnation": incarnation, "rows": msgspec.json.encode(rows).decode()}
        await database.fetch(query("write_positions"), params)
