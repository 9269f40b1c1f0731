"""Processes die by kill -9 under load, again and again: nothing is lost, no row is there twice."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.fixtures.engines import committed, ends
from tests.fixtures.load import Load
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver

MESSAGES = 10_000
KILLS = 5
SEED = 20261124


def _kill_at_random(processes: list[NotifydProcess]) -> None:
    """Kill each so many times at moments of its own, whatever it is at, and start it again each time."""
    moments = []
    for process in processes:
        chance = random.Random(f"{SEED} {process.name}")
        at = 0.0
        for _ in range(KILLS):
            at += chance.uniform(0.5, 9.0)
            moments.append((at, process))
    began = time.monotonic()
    for at, process in sorted(moments, key=lambda moment: moment[0]):
        time.sleep(max(0.0, began + at - time.monotonic()))  # the moment is the test's to choose
        process.kill()
        process.start()


def _lag(service: Service, role: str) -> int:
    prefix = service.settings.topic_prefix
    group = f"{prefix.rstrip('.')}-{role}"
    topics = {"persist": ["messages", "events"], "deliver": ["messages", "retry.5s"]}[role]

    async def look() -> int:
        total = 0
        for topic in (f"{prefix}{name}" for name in topics):
            places = await committed(service.settings, group, topic)
            end = await ends(service.settings, topic)
            total += sum(there - (here or 0) for here, there in zip(places, end, strict=True))
        return total

    return asyncio.run(look())


@pytest.mark.needs_kafka("the embedded broker takes half a session for each join, and has no idempotence")
def test_ten_thousand_messages_survive_ten_kills(
    service: Service, webhook_receiver: WebhookReceiver, record_property: pytest.RecordProperty
) -> None:
    quick = {"NOTIFYD_KAFKA_SESSION_TIMEOUT_S": "3", "NOTIFYD_WEBHOOK_HOST_CONCURRENCY": "100"}
    roles = service.roles("persist", "deliver", **quick)
    began = time.monotonic()
    with Load(service.settings, count=MESSAGES, per_s=250, webhook=webhook_receiver.url()) as load:
        _kill_at_random(roles)
        assert load.is_under_way, "the last kill was to come under load"
        ids = load.wait()
        calmed = time.monotonic()
    assert len(set(ids)) == MESSAGES

    def all_are_sent() -> bool:
        assert all(process.is_running for process in roles)
        sql = "SELECT channel, state, count(*) FROM delivery GROUP BY 1, 2"
        return service.rows(sql) == [("webhook", "sent", MESSAGES)]

    wait_until(all_are_sent, timeout_s=90, every_s=0.5, what="every delivery to be sent")
    recovered = time.monotonic()

    # No sooner than now is nothing left to come: each row once, each webhook at least once.
    wait_until(lambda: _lag(service, "persist") == 0, every_s=0.5, what="persist to have no lag")
    wait_until(lambda: _lag(service, "deliver") == 0, every_s=0.5, what="deliver to have no lag")
    assert service.rows("SELECT count(*), count(DISTINCT id) FROM message") == [(MESSAGES, MESSAGES)]
    assert service.rows("SELECT state, count(*) FROM message GROUP BY 1") == [("done", MESSAGES)]
    assert service.rows("SELECT count(*), count(DISTINCT message_id) FROM inbox") == [(MESSAGES, MESSAGES)]
    assert service.rows("SELECT sum(unread), max(unread) FROM user_state") == [(MESSAGES, 1)]
    assert {str(row[0]) for row in service.rows("SELECT id FROM message")} == set(ids)
    assert service.dead_letters() == []
    counts = webhook_receiver.counts()
    assert counts.keys() == set(ids)
    repeats = counts.total() - MESSAGES
    share = (
        f"{repeats} of {counts.total()} webhook calls were repeats ({repeats / counts.total():.2%}); "
        f"the kills took {calmed - began:.0f} s, then all was sent after {recovered - calmed:.0f} s"
    )
    print(share)
    record_property("repeats", share)
    # A kill repeats what was in flight and what was not committed yet, not what came before.
    assert repeats < MESSAGES / 2
    assert [process.sigterm() for process in roles] == [0, 0]
