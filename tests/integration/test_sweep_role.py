"""The sweep on a real broker and a real database: lost outcomes, schedules, and what it must leave alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import psycopg2
import pytest
import structlog
from pydantic import SecretStr

from notifyd.cli.sweep import _look
from notifyd.content_keys import new_content_key
from notifyd.delivery.event import Event, encode_events
from notifyd.message.ids import new_id
from notifyd.roles.context import Role, RoleContext
from notifyd.roles.deliver import DeliverRole
from notifyd.roles.persist import PersistRole
from notifyd.roles.streaming import group_of
from notifyd.roles.sweep import SweepRole
from notifyd.roles.ws import WsRole
from notifyd.settings import Settings
from notifyd.stream.groups import find_groups, new_group
from notifyd.stream.producer import OutRecord
from tests.fixtures.engines import Member
from tests.fixtures.roles import surroundings
from tests.fixtures.waiting import eventually
from tests.fixtures.webhooks import WebhookReceiver


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


#: As the producer of a message wrote it, and as it is read there.
TRACED = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


class Losing(DeliverRole):
    """Drops the events of some messages, as if they had never been written: once each."""

    lost: ClassVar[set[str]]

    def loses(self, event: Event) -> bool:
        return event.id in self.lost and not event.run

    async def start(self) -> None:
        write, put = self._events.write, self._events.put

        async def write_others(events: Sequence[Event]) -> None:
            kept = [event for event in events if not self.loses(event)]
            if kept:
                await write(kept)

        def put_others(event: Event) -> asyncio.Future[None]:
            if not self.loses(event):
                return put(event)
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

        self._events.write = write_others  # type: ignore[method-assign]
        self._events.put = put_others  # type: ignore[method-assign]
        await super().start()


async def test_a_lost_outcome_is_made_good_and_nothing_else_is_touched(quick: Settings) -> None:
    ids = [new_id() for _ in range(300)]
    lost = set(ids[::100])

    class Lossy(Losing):
        pass

    Lossy.lost = lost
    async with surroundings(quick) as around, around.running(PersistRole), around.running(Lossy):
        await asyncio.gather(
            *(
                around.send(id=one, to=["alice"], title="Hi", channels=["stub"], headers=headers)
                for one, headers in zip(ids, itertools.cycle([TRACED, ()]), strict=False)
            )
        )
        async with around.running(SweepRole):
            await all_are(quick, "sent", 300)
        resent = await around.records(around.topics.resend)
    assert {record.key.decode() for record in resent} == lost
    assert len(resent) == len(lost)
    # They go on in the trace that their producer began.
    assert all(TRACED[0] in record.headers for record in resent)
    assert rows(quick, "select count(*) from delivery where resends > 0 and run <> ''") == [(3,)]
    assert rows(quick, "select count(*) from message_event where reason = 'resent'") == [(3,)]
    assert not around.failures


async def test_a_message_whose_key_is_missing_waits_for_it_and_the_others_go_on(quick: Settings) -> None:
    sealed, plain = new_id(), new_id()

    class Lossy(Losing):
        lost: ClassVar[set[str]] = {sealed, plain}

    keys = quick.model_copy(update={"content_keys": SecretStr(new_content_key("k1"))})

    def without_key(role: type[PersistRole] | type[SweepRole]) -> Callable[[RoleContext], Role]:
        return lambda context: role(replace(context, settings=quick))

    async def stored(count: int) -> None:
        await eventually(
            lambda: rows(quick, "select count(*) from delivery") == [(count,)], what=f"{count} to be stored"
        )

    async with surroundings(keys) as around, around.running(Lossy):
        async with around.running(PersistRole):
            await around.send(id=sealed, to=["alice"], title="Hi", channels=["stub"])
            await stored(1)
        async with around.running(without_key(PersistRole)):
            await around.send(id=plain, to=["alice"], title="Hi", channels=["stub"])
            await stored(2)
            with structlog.testing.capture_logs() as logs:
                async with around.running(without_key(SweepRole)):
                    states = "select message_id::text, state from delivery"
                    await eventually(
                        lambda: dict(rows(quick, states)) == {sealed: "pending", plain: "sent"},
                        timeout_s=60,
                        what="the other one to be sent",
                    )
                    await eventually(
                        lambda: [one for one in logs if one["event"] == "content_sealed"],
                        timeout_s=60,
                        what="the missing key to be told",
                    )
            told = next(one for one in logs if one["event"] == "content_sealed")
            assert (told["key_id"], told["reason"]) == ("k1", "content_key_missing")
            # With the key it is made good, rather than counted as resent before.
            assert rows(quick, f"select resends from delivery where message_id = '{sealed}'") == [(0,)]
            rows(quick, "update delivery set next_check_at = now() where not is_final returning 1")
            async with around.running(SweepRole):
                await all_are(quick, "sent", 2)
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


async def test_a_resend_that_waits_for_deliver_is_not_taken_for_lost(quick: Settings) -> None:
    message_id = new_id()

    class Lossy(Losing):
        lost: ClassVar[set[str]] = {message_id}

    async with surroundings(quick) as around, around.running(PersistRole):
        async with around.running(Lossy) as deliver:
            await around.send(id=message_id, to=["alice"], title="Hi", channels=["stub"])
            await eventually(lambda: rows(quick, "select count(*) from delivery") == [(1,)], what="the row")
            await _is_passed(deliver)
        async with around.running(SweepRole):
            verdicts = around.context.metrics.sweep_verdicts
            later = verdicts.labels("later", "resend")._value
            await eventually(lambda: later.get() == 1, timeout_s=60, what="the sweep to look at its resend")
            assert len(await around.records(around.topics.resend)) == 1
            async with around.running(DeliverRole):
                # It was put off for half a minute, and is through before.
                await all_are(quick, "sent", 1)
    assert rows(quick, "select resends from delivery") == [(1,)]


async def test_what_never_gets_an_outcome_is_dead_after_the_last_resend(
    quick: Settings, webhook_receiver: WebhookReceiver
) -> None:
    class Silent(Losing):
        def loses(self, event: Event) -> bool:
            return True

    settings = quick.model_copy(
        update={
            "sweep_max_resends": 1,
            "sweep_alarm_url": SecretStr(webhook_receiver.url()),
            "sweep_alarm_allow_private": True,
        }
    )
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
    [call] = webhook_receiver.wait_for(1)
    told = json.loads(call.body)
    assert (told["reason"], told["deliveries"], told["user_id"]) == ("no_outcome", 1, "alice")


async def test_a_scheduled_message_is_released_when_it_is_due(quick: Settings) -> None:
    async with (
        surroundings(quick) as around,
        around.running(PersistRole),
        around.running(DeliverRole),
        around.running(SweepRole),
    ):
        due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
        await around.send(
            id=new_id(),
            to=["alice"],
            title="Hi",
            channels=["stub"],
            not_before=due.isoformat(),
            headers=TRACED,
        )
        await all_are(quick, "sent", 1)
        first, release = await around.records(around.topics.messages)
    assert release.value == first.value
    assert set(release.headers) == {("notifyd-release", b"1"), *TRACED}
    assert release.timestamp >= due.timestamp() * 1000
    assert rows(quick, "select count(*) from inbox") == [(1,)]


async def test_a_push_to_an_absent_user_is_stored_and_no_loss(quick: Settings) -> None:
    # A position comes every five seconds.
    settings = quick.model_copy(update={"jwt_secret": SecretStr("s" * 32), "sweep_check_after_s": 8.0})
    async with surroundings(settings) as around, around.running(PersistRole):
        async with around.running(SweepRole), around.running(WsRole):
            await around.send(id=new_id(), to=["alice"], title="Hi")
            await all_are(settings, "stored", 1)
        assert rows(settings, "select reason from delivery") == [("absent",)]
        assert rows(settings, "select state from message") == [("done",)]
        # As it left it said that it speaks no more.
        live = "select count(*) from pod_position where expires_at > now()"
        await eventually(lambda: rows(settings, live) == [(0,)], what="its last word")
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
            headers=TRACED,
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
    assert {("notifyd-user", b"alice"), *TRACED} <= set(resend.headers)


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


@pytest.mark.needs_kafka("the embedded broker deletes no groups")
async def test_the_leader_clears_away_groups_of_ws_processes_that_are_gone_for_an_hour(
    quick: Settings,
) -> None:
    base = group_of(quick, "ws")
    two_hours_ago = f"{int((time.time() - 7200) * 1000):012x}"
    gone = f"{base}-{two_hours_ago[:8]}-{two_hours_ago[8:]}-7000-8000-000000000000"
    used = f"{base}-{two_hours_ago[:8]}-{two_hours_ago[8:]}-7000-8000-000000000001"
    young = new_group(base)
    async with surroundings(quick) as around:
        topic = around.topics.signals
        for name in (gone, young):
            await (await _joined(quick, name, topic)).stop()
        staying = await _joined(quick, used, topic)
        try:
            assert {one.name for one in await find_groups(quick, base)} == {gone, used, young}
            with structlog.testing.capture_logs() as lines:
                async with around.running(SweepRole):
                    await eventually(
                        lambda: "groups_cleared" in {line["event"] for line in lines}, what="the clearing"
                    )
            assert {one.name for one in await find_groups(quick, base)} == {used, young}
        finally:
            await staying.stop()


async def _joined(settings: Settings, group: str, topic: str) -> Member:
    member = await Member(settings, group, [topic]).start()
    await eventually(lambda: member.app.is_joined, what="the group")
    return member


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
