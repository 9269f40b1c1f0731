"""What the tables tell the metrics: how long lives took, and how old the oldest is that goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from notifyd.message.envelope import decode
from notifyd.store.batch import MessageRow
from notifyd.store.sweep import SweepStore
from tests.fixtures.inbox import ago, id_at
from tests.fixtures.store import LIMITS, Store, envelope, event_of, open_store


@pytest_asyncio.fixture
async def store(migrated_database_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_database_url) as opened:
        yield opened


async def _put(store: Store, minutes: float) -> MessageRow:
    """Store a message for alice and bob that was accepted so long ago."""
    one = _row(store, minutes)
    await store.messages([one])
    return one


def _row(store: Store, minutes: float) -> MessageRow:
    at = ago(minutes=minutes)
    value = envelope(id_at(at), to=["alice", "bob"], created=at.isoformat(), channels=["ws"])
    message = decode(value, timestamp_ms=int(at.timestamp() * 1000), limits=LIMITS)
    return MessageRow(message, 0, store.at["notifyd.messages"])


def _ends(store: Store) -> tuple[float | None, float | None]:
    """How many deliveries of ws came to an end, and after how many seconds in all."""
    read = store.metrics.registry.get_sample_value
    return tuple(
        read(f"notifyd_accepted_to_final_seconds_{end}", {"channel": "ws"}) for end in ("count", "sum")
    )  # type: ignore[return-value]


async def test_a_delivery_counts_once_when_it_comes_to_an_end(store: Store) -> None:
    one = await _put(store, 10)
    at = one.message.timestamp_ms
    await store.events([event_of(one, "sent", user="alice", at=at + 1000)])
    assert _ends(store) == (None, None)
    await store.events(
        [
            event_of(one, "acked", user="alice", at=at + 2000),
            event_of(one, "stored", user="bob", at=at + 3000),
        ]
    )
    count, total = _ends(store)
    assert (count, total) == (2, pytest.approx(5.0))
    # Bob comes back days later: what was final has been counted.
    await store.events([event_of(one, "acked", user="bob", at=at + 900_000)])
    assert _ends(store) == (count, total)


async def test_an_end_that_comes_before_its_message_counts_as_well(store: Store) -> None:
    one = _row(store, 10)
    await store.events([event_of(one, "acked", user="alice", at=one.message.timestamp_ms + 4000)])
    await store.messages([one])
    assert _ends(store) == (1, pytest.approx(4.0))


async def test_the_oldest_is_of_what_is_neither_sent_nor_final(store: Store) -> None:
    sweep = SweepStore(store.database)
    assert await sweep.oldest_open_s() == 0
    sent, oldest, fresh = await _put(store, 50), await _put(store, 30), await _put(store, 5)
    await store.events([event_of(sent, "sent", user=user) for user in ("alice", "bob")])
    assert await sweep.oldest_open_s() == pytest.approx(1800, abs=30)
    await store.events([event_of(oldest, "acked", user=user) for user in ("alice", "bob")])
    assert await sweep.oldest_open_s() == pytest.approx(300, abs=30)
    await store.events([event_of(fresh, "stored", user=user) for user in ("alice", "bob")])
    assert await sweep.oldest_open_s() == 0
