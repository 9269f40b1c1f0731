"""Brokers and databases come late, go away at work, come back: the roles wait, and go on by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notifyd.dev.kafka import LocalKafka
from notifyd.dev.postgres import LocalPostgres
from notifyd.settings import Settings
from tests.fixtures.kafka import settings_for
from tests.fixtures.load import Load
from tests.fixtures.processes import NotifydProcess, ProcessStarter
from tests.fixtures.service import Service, frames_of, with_database
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver


@pytest.fixture
def late(
    start_notifyd: ProcessStarter, settings: Settings, own_postgres: LocalPostgres, tmp_path: Path
) -> Service:
    """Topics on the session's broker, and a database that the test may take away."""
    return Service(start_notifyd, with_database(settings, own_postgres.url), tmp_path).set_up()


def _waits_for(process: NotifydProcess) -> list[str]:
    status, body = process.get("/readyz")
    assert status in {200, 503}
    found: list[str] = json.loads(body)["waits_for"]
    assert (status == 200) == (not found)
    return found


def test_a_database_that_comes_late_is_waited_for(late: Service, own_postgres: LocalPostgres) -> None:
    own_postgres.stop()
    process = late.role("all", pod="early")
    line = process.wait_for_log("waiting_for_database")
    assert "does not answer" in line["error"]
    assert "NOTIFYD_DATABASE_URL" in line["remedy"]
    assert any(one.startswith("persist") for one in _waits_for(process))
    assert process.get("/healthz")[0] == 200
    # What needs no database works meanwhile: a client is let in and a message reaches it.
    alice = late.listen("alice", process)
    assert late.run("send", "--to", "alice", "--title", "Hi").returncode == 0
    wait_until(lambda: frames_of(alice, "msg"), what="the message to reach alice")
    own_postgres.start()
    process.wait_for_log("database_found")
    process.wait_ready()
    wait_until(lambda: late.rows("SELECT count(*) FROM message") == [(1,)], what="the message to be stored")
    assert process.sigterm() == 0


def test_a_database_that_goes_away_at_work_delays_rows_and_nothing_else(
    late: Service, own_postgres: LocalPostgres, webhook_receiver: WebhookReceiver
) -> None:
    persist, deliver = late.roles("persist", "deliver")
    with Load(late.settings, count=4000, per_s=200, webhook=webhook_receiver.url()) as load:
        webhook_receiver.wait_for(200)
        own_postgres.kill()
        persist.wait_for_log("waiting_for_database")
        assert any("database" in one for one in _waits_for(persist))
        assert persist.get("/healthz")[0] == 200
        during = len(webhook_receiver.calls)
        webhook_receiver.wait_for(during + 600)
        own_postgres.stop()  # what the kill left behind
        own_postgres.start()
        persist.wait_for_log("database_answers_again")
        ids = load.end()
    wait_until(
        lambda: late.rows("SELECT state, count(*) FROM delivery GROUP BY 1") == [("sent", len(ids))],
        timeout_s=60,
        every_s=0.3,
        what="every row",
    )
    persist.wait_ready()
    assert late.rows("SELECT count(*) FROM message") == [(len(ids),)]
    assert late.dead_letters() == []
    assert [persist.sigterm(), deliver.sigterm()] == [0, 0]


def test_a_stop_while_the_database_is_away_is_in_order(late: Service, own_postgres: LocalPostgres) -> None:
    persist = late.role("persist").wait_ready()
    with Load(late.settings, count=2000, per_s=200, channels=["stub"]):
        wait_until(lambda: late.rows("SELECT count(*) > 100 FROM message") == [(True,)])
        own_postgres.kill()
        persist.wait_for_log("waiting_for_database")
        assert persist.sigterm(timeout_s=10) == 0
    assert late.dead_letters() == []


def test_a_broker_that_comes_late_is_waited_for(
    start_notifyd: ProcessStarter, own_kafka: LocalKafka, migrated_database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(own_kafka.bootstrap_servers, is_embedded=False, topic_prefix="late.")
    service = Service(start_notifyd, with_database(settings, migrated_database_url), tmp_path).set_up()
    own_kafka.stop()
    roles = [service.role(name) for name in ("deliver", "persist", "ws")]
    for role in roles:
        line = role.wait_for_log("waiting_for_broker")
        assert own_kafka.bootstrap_servers in line["detail"]
        assert "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS" in line["remedy"]
        assert _waits_for(role)
        assert role.get("/healthz")[0] == 200
    own_kafka.start()
    for role in roles:
        role.wait_for_log("broker_found")
        role.wait_ready()
        assert role.sigterm() == 0


def test_a_broker_that_goes_away_at_work_stops_nobody(
    start_notifyd: ProcessStarter,
    own_kafka: LocalKafka,
    migrated_database_url: str,
    webhook_receiver: WebhookReceiver,
    tmp_path: Path,
) -> None:
    settings = settings_for(own_kafka.bootstrap_servers, is_embedded=False, topic_prefix="away.")
    service = Service(start_notifyd, with_database(settings, migrated_database_url), tmp_path).set_up()
    roles = service.roles("deliver", "persist", "ws")
    alice = service.listen("user-3", roles[2])
    with Load(settings, count=6000, per_s=200, webhook=webhook_receiver.url()) as load:
        webhook_receiver.wait_for(200)
        own_kafka.kill()
        confirmed = len(load.confirmed)
        for role in roles:
            assert role.get("/healthz")[0] == 200
        own_kafka.start()
        wait_until(lambda: len(load.confirmed) > confirmed + 400, timeout_s=60, what="the producer to go on")
        ids = load.end()
    wait_until(
        lambda: service.rows("SELECT state, count(*) FROM delivery GROUP BY 1") == [("sent", len(ids))],
        timeout_s=90,
        every_s=0.5,
        what="every delivery to be sent",
    )
    assert service.rows("SELECT count(*) FROM message") == [(len(ids),)]
    assert webhook_receiver.counts().keys() == set(ids)
    assert service.dead_letters() == []
    for role in roles:
        role.wait_ready()
    assert alice.is_running
    assert service.run("send", "--to", "user-3", "--title", "Still there?").returncode == 0
    wait_until(lambda: frames_of(alice, "msg"), what="the push after the outage")

    # And now for good: each ends in order and in time, with records in flight that it cannot pass on.
    with Load(settings, count=1000, per_s=500, webhook=webhook_receiver.script("/slow", 503)) as load:
        webhook_receiver.wait_for(10, path="/slow")  # after ten such answers the host counts as down
        own_kafka.kill()
        codes = [role.sigterm(timeout_s=10) for role in roles]
        own_kafka.start()
        load.end()
    assert codes == [0, 0, 0]
