"""The sweep on a real broker and a real database: lost outcomes, schedules, and what it must leave alone."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import ClassVar

import psycopg2
import pytest
from pydantic import SecretStr

from notifyd.cli.sweep import _look
from notifyd.delivery.event import Event, encode_events
from notifyd.message.ids import new_id
from notifyd.roles.context import Role
from notifyd.roles.deliver import DeliverRole
from notifyd.roles.persist import PersistRole
from notifyd.roles.sweep import SweepRole
from notifyd.roles.ws import WsRole
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord
from tests.fixtures.roles import surroundings
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.needs_kafka(
    "the embedded broker tells ends too low, so the sweep would judge too early"
)


@pytest.fixture
def quick(settings: Settings, migrated_database_url: str) -> Settings:
    return settings.model_copy(
        update={
            "database_url": SecretStr(migrated_database_url),
            "sweep_check_after_s": 1.0,
            "sweep_every_s": 0.2,
            "stub_script": "done",
        }
    )


def rows(settings: Settings, sql: str) -> list[tuple[object, ...]]:
    assert settings.database_url is not None
    with psycopg2.connect(settings.database_url.get_secret_value()) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchall()


async def all_are(settings: Settings, state: str, count: int) -> None:
    def enough() -> bool:
        return rows(settings, "select state, count(*) from delivery group by 1") == [(state, count)]

    await eventually(enough, every_s=0.2, timeout_s=90, what=f"{count} deliveries to be {state}")


class Losing(DeliverRole):
    """Drops the events of some messages, as if they had never been written: once each."""

    lost: ClassVar[set[str]]

    async def start(self) -> None:
        write = self._events.write

        async def lossy(events: Sequence[Event]) -> None:
            kept = [event for event in events if event.id not in self.lost or event.run]
            if kept:
                await write(kept)

        self._events.write = lossy  # type: ignore[method-assign]
        await super().start()


async def test_a_lost_outcome_is_made_good_and_nothing_else_is_touched(quick: Settings) -> None:
    ids = [new_id() for _ in range(300)]
    lost = set(ids[::100])

    class Lossy(Losing):
        pass

    Lossy.lost = lost
    async with surroundings(quick) as around, around.running(PersistRole), around.running(Lossy):
        await asyncio.gather(
            *(around.send(id=one, to=["alice"], title="Hi", channels=["stub"]) for one in ids)
        )
        async with around.running(SweepRole):
            await all_are(quick, "sent", 300)
        resent = await around.records(around.topics.resend)
    assert {record.key.decode() for record in resent} == lost
    assert len(resent) == len(lost)
    assert rows(quick, "select count(*) from delivery where resends > 0 and run <> ''") == [(3,)]
    assert rows(quick, "select count(*) from message_event where reason = 'resent'") == [(3,)]
    assert not around.failures


async def test_a_stopped_deliver_is_not_taken_for_lost_outcomes(quick: Settings) -> None:
    async with surroundings(quick) as around, around.running(PersistRole), around.running(SweepRole):
        ids = [new_id() for _ in range(50)]
        await asyncio.gather(
            *(around.send(id=one, to=["alice"], title="Hi", channels=["stub"]) for one in ids)
        )
        # Each is looked at, and put off.
        await eventually(
            lambda: (
                rows(quick, "select count(*) from delivery where next_check_at > now() + interval '10 s'")
                == [(50,)]
            ),
            timeout_s=60,
            what="the sweep to look",
        )
        async with around.running(DeliverRole):
            await all_are(quick, "sent", 50)
        assert await around.records(around.topics.resend) == []


async def test_what_never_gets_an_outcome_is_dead_after_the_last_resend(quick: Settings) -> None:
    class Silent(Losing):
        lost: ClassVar[set[str]] = set()

        async def start(self) -> None:
            await super().start()

            async def nothing(events: Sequence[Event]) -> None:
                pass

            self._events.write = nothing  # type: ignore[method-assign]

    settings = quick.model_copy(update={"sweep_max_resends": 1})
    async with (
        surroundings(settings) as around,
        around.running(PersistRole),
        around.running(Silent) as silent,
    ):
        await around.send(id=new_id(), to=["alice"], title="Hi", channels=["stub"])
        await _is_passed(silent)
        overdue = "select count(*) from delivery where next_check_at < now()"
        await eventually(lambda: rows(settings, overdue) == [(1,)], what="the deadline")
        [told] = await _look(settings, 10)
        assert (told["verdict"], told["user"], told["state"]) == ("resend", "alice", "pending")
        # It was only looked at.
        assert [told] == await _look(settings, 10)
        async with around.running(SweepRole):
            await eventually(
                lambda: (
                    rows(settings, "select state, reason, resends from delivery")
                    == [("dead", "no_outcome", 1)]
                ),
                every_s=0.3,
                timeout_s=90,
                what="the end",
            )
        assert len(await around.records(around.topics.resend)) == 1
        assert rows(settings, "select state from message") == [("dead",)]


async def test_a_scheduled_message_is_released_when_it_is_due(quick: Settings) -> None:
    async with (
        surroundings(quick) as around,
        around.running(PersistRole),
        around.running(DeliverRole),
        around.running(SweepRole),
    ):
        due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
        await around.send(
            id=new_id(), to=["alice"], title="Hi", channels=["stub"], not_before=due.isoformat()
        )
        await all_are(quick, "sent", 1)
        first, release = await around.records(around.topics.messages)
    assert release.value == first.value
    assert ("notifyd-release", b"1") in release.headers
    assert release.timestamp >= due.timestamp() * 1000
    assert rows(quick, "select count(*) from inbox") == [(1,)]


async def test_a_push_to_an_absent_user_is_stored_and_no_loss(quick: Settings) -> None:
    # A position comes every five seconds.
    settings = quick.model_copy(update={"jwt_secret": SecretStr("s" * 32), "sweep_check_after_s": 8.0})
    async with (
        surroundings(settings) as around,
        around.running(PersistRole),
        around.running(SweepRole),
        around.running(WsRole),
    ):
        await around.send(id=new_id(), to=["alice"], title="Hi")
        await all_are(settings, "stored", 1)
    assert rows(settings, "select reason from delivery") == [("absent",)]
    assert rows(settings, "select state from message") == [("done",)]
    # As it left it said that it speaks no more.
    assert rows(settings, "select count(*) from pod_position where expires_at > now()") == [(0,)]
    assert not around.failures


async def test_a_push_of_a_process_that_is_gone_is_told_as_such(quick: Settings) -> None:
    async with surroundings(quick) as around, around.running(PersistRole):
        await around.send(id=new_id(), to=["alice"], title="Hi")
        await eventually(lambda: rows(quick, "select count(*) from delivery") == [(1,)], what="the row")
        async with around.running(SweepRole):
            await all_are(quick, "stored", 1)
    assert rows(quick, "select reason from delivery") == [("pod_lost",)]


async def test_a_fallback_reaches_those_who_have_not_seen_it_by_then(quick: Settings) -> None:
    async with surroundings(quick) as around, around.running(PersistRole), around.running(DeliverRole):
        message_id = new_id()
        await around.send(
            id=message_id,
            to=["alice", "bob"],
            title="Hi",
            channels=["ws"],
            fallback={"after": "3s", "channels": ["stub"]},
        )
        await eventually(lambda: rows(quick, "select count(*) from delivery") == [(4,)], what="the rows")
        seen = Event(
            id=message_id, day="", digest="", user="bob", channel="ws", stage="seen", at=1, pod="ws-1"
        )
        await around.context.producer.send(OutRecord(around.topics.events, encode_events([seen])))
        async with around.running(SweepRole):
            await eventually(
                lambda: (
                    rows(quick, "select user_id, state from delivery where channel = 'stub' order by 1")
                    == [("alice", "sent"), ("bob", "skipped")]
                ),
                every_s=0.2,
                timeout_s=60,
                what="the fallback",
            )
        (resend,) = await around.records(around.topics.resend)
    assert ("notifyd-user", b"alice") in resend.headers


async def test_a_second_sweeper_stands_by_and_takes_over(quick: Settings) -> None:
    async with surroundings(quick) as around, around.running(PersistRole), around.running(SweepRole) as first:
        leader = around.context.metrics.sweep_leader
        await eventually(lambda: leader._value.get() == 1, what="the first to lead")
        second = SweepRole(around.context)
        await second.start()
        try:
            assert not second.waits_for
            assert _leaders(quick) == 1
            assert first._task is not None  # type: ignore[attr-defined]
            first._task.cancel()  # type: ignore[attr-defined]
            await eventually(lambda: second.is_leading, timeout_s=20, what="the second to lead")
            assert _leaders(quick) == 1
        finally:
            await second.stop()


async def _is_passed(deliver: Role) -> None:
    """Wait until everything is committed."""
    app = deliver.app  # type: ignore[attr-defined]

    def is_idle() -> bool:
        flows = app.engine_consumer.flows.values()
        return any(flow.committable for flow in flows) and not any(flow.uncommitted for flow in flows)

    await eventually(is_idle, what="the commit")


def _leaders(settings: Settings) -> int:
    [(count,)] = rows(settings, "select count(*) from pg_locks where locktype = 'advisory' and granted")
    assert isinstance(count, int)
    return count
