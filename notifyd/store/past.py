"""What was stored for a user, by position: for clients that were away longer than a ws process remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from notifyd.store.pool import Database
from notifyd.store.sql import query


@dataclass(frozen=True, slots=True)
class StoredPast:
    """One moment of the store. `marks`: per partition [first, next), of which everything is stored;

    `rows`: (partition, offset, timestamp in ms, original) in the order of partition and offset.
    """

    marks: Mapping[int, tuple[int, int]]
    rows: list[tuple[int, int, int, bytes]]


async def read_past(  # noqa: PLR0917
    database: Database,
    incarnation: str,
    topic: str,
    user: str,
    ranges: Mapping[int, tuple[int, int]],
    limit: int,
) -> StoredPast:
    """Read the first `limit` rows of a user's inbox within ranges of offsets, [from, to) per partition.

    Rows and marks are of one snapshot. Raises `TransientError` while the database is away, and
    `ContentKeyError` where one of them cannot be opened.
    """
    params = {
        "incarnation": incarnation,
        "topic": topic,
        "user": user,
        "limit": limit,
        "partitions": list(ranges),
        "starts": [start for start, _ in ranges.values()],
        "ends": [end for _, end in ranges.values()],
    }
    async with database.transaction(is_snapshot=True) as tx:
        marks = await tx.fetch(query("read_past_marks"), params)
        rows = await tx.fetch(query("read_past_messages"), params)
    return StoredPast(
        {partition: (first, following) for partition, first, following in marks},
        [
            (partition, offset, at_ms, database.content.open(message_id, bytes(stored)))
            for partition, offset, at_ms, message_id, stored in rows
        ],
    )
