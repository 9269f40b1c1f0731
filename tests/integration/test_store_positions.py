"""Positions of `ws` processes on a real database: last word counts, poison is set aside alone."""

from __future__ import annotations

import pytest

from notifyd.delivery.pod import PodPosition, encode_position
from notifyd.metrics import Metrics
from notifyd.store.batch import Refused
from notifyd.store.persist import PersistStore
from tests.fixtures.store import EVENTS, INCARNATION, open_database

pytestmark = pytest.mark.each_postgres


def position(boot: str, done: int, **more: object) -> bytes:
    fields = {
        "boot": boot,
        "pod": "ws-1",
        "incarnation": INCARNATION,
        "start": {0: 5},
        "done": {0: done, 1: 2},
        "connections": 3,
        "at": 1,
        "lasts_s": 30.0,
        **more,
    }
    return encode_position(PodPosition(**fields))  # type: ignore[arg-type]


async def test_the_furthest_position_counts_in_any_order(migrated_database_url: str) -> None:
    async with open_database(migrated_database_url) as database:
        store = PersistStore(database, INCARNATION, "persist-1", Metrics())
        refused: list[Refused] = []

        async def on_refused(found: object) -> None:
            refused.extend(found)  # type: ignore[arg-type]

        values = [
            (0, position("one", 9)),
            (1, b'{"position": {"boot": 1}}'),
            (2, position("other", 7, incarnation="before")),
            (3, position("two", 8, lasts_s=0.0)),
        ]
        written = await store.write_events(EVENTS, 0, 0, 4, values, on_refused)
        assert (written.status, [one.offset for one in refused]) == ("written", [1])
        await store.write_events(EVENTS, 0, 4, 5, [(4, position("one", 6))], on_refused)
        found = await database.fetch(
            "SELECT boot_id, kafka_partition, start_offset, done_offset, expires_at > now() FROM pod_position"
            " ORDER BY 1, 2"
        )
    assert [row for row in found if row[1] == 0] == [("one", 0, 5, 9, True), ("two", 0, 5, 8, False)]
    assert [row for row in found if row[1] == 1] == [("one", 1, 0, 2, True), ("two", 1, 0, 2, False)]
