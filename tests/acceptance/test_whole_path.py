"""The whole path with one process per role: from the topic to the screen, the webhook and the trace."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from notifyd.dev.kafka import LocalKafka
from notifyd.dev.postgres import LocalPostgres
from notifyd.message.ids import new_id
from notifyd.settings import Settings
from notifyd.stream.topics import Topics
from tests.fixtures.kafka import settings_for
from tests.fixtures.processes import NotifydProcess, ProcessStarter
from tests.fixtures.service import Service, frames_of, with_database
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver

ROLES = ("persist", "deliver", "ws")


def _envelope(message_id: str, webhook_url: str, **content: Any) -> str:
    """Write an envelope by hand, as a backend without any library of ours does."""
    contacts = {"alice": {"userId": "alice", "webhook": [{"url": webhook_url}]}}
    return json.dumps(
        {
            "from": "orders",
            "UUID": message_id,
            "content": {
                "version": 1.1,
                "type": "order.shipped",
                "title": "On its way",
                "channels": ["ws", "webhook"],
                "contacts": contacts,
                **content,
            },
            "toUserIds": ["alice"],
            "createBy": "orders-svc",
            "createDateTime": dt.datetime.now(dt.UTC).isoformat(),
        }
    )


def _messages(listen: NotifydProcess) -> dict[str, dict[str, Any]]:
    return {frame["message"]["UUID"]: frame["message"] for frame in frames_of(listen, "msg")}


def _confirmed(listen: NotifydProcess) -> set[str]:
    """Return the ids whose acks the server says are durable."""
    return {id_ for frame in frames_of(listen, "ok") for id_ in frame.get("ack", ())}


def _delivery(trace: dict[str, Any], user: str, channel: str) -> dict[str, Any]:
    (found,) = [d for d in trace["deliveries"] if (d["user"], d["channel"]) == (user, channel)]
    return dict(found)


def _moments(events: list[dict[str, Any]]) -> dict[str, tuple[dt.datetime, str | None]]:
    """By stage: when, and by which pod; each stage once."""
    found = {event["stage"]: (dt.datetime.fromisoformat(event["at"]), event["pod"]) for event in events}
    assert len(found) == len(events), events
    return found


def _send(service: Service, *args: str) -> str:
    sent = service.run("send", *args, "--json")
    assert sent.returncode == 0, sent.stderr
    message_id: str = json.loads(sent.stdout)["id"]
    return message_id


@pytest.fixture
def kafka_service(
    own_kafka: LocalKafka,
    start_notifyd: ProcessStarter,
    topic_prefix: str,
    database_url: str,
    tmp_path: Path,
) -> Service:
    """As `service`, on `own_kafka`, which brings Kafka's own tools."""
    on_kafka = settings_for(own_kafka.bootstrap_servers, is_embedded=False, topic_prefix=topic_prefix)
    return Service(start_notifyd, with_database(on_kafka, database_url), tmp_path).set_up()


def test_envelopes_of_kafka_s_console_producer_go_the_whole_way(
    own_kafka: LocalKafka, kafka_service: Service, webhook_receiver: WebhookReceiver
) -> None:
    service = kafka_service
    persist, deliver, ws = service.roles(*ROLES)
    listen = service.listen("alice", ws)
    topic = Topics.of(service.settings).messages
    url = webhook_receiver.url()

    bare = [new_id() for _ in range(3)]
    own_kafka.console_producer(topic, [_envelope(id_, url, title=f"bare {id_}") for id_ in bare])
    keyed = [new_id() for _ in range(3)]
    own_kafka.console_producer(
        topic,
        [f"customer-7\t{_envelope(id_, url, title=f'keyed {id_}')}" for id_ in keyed],
        arguments=("--property", "parse.key=true"),
    )
    ids = [*bare, *keyed]

    # On the screen, as it was written but for what is nobody else's business.
    wait_until(lambda: _messages(listen).keys() >= set(ids), what="six messages on the screen")
    for id_, message in _messages(listen).items():
        assert message["content"]["title"].endswith(id_)
        assert (message["from"], message["createBy"]) == ("orders", "orders-svc")
        assert "toUserIds" not in message
        assert "contacts" not in message["content"]
    webhook_receiver.wait_for_ids(ids)
    assert set(webhook_receiver.counts().values()) == {1}
    wait_until(lambda: _confirmed(listen) >= set(ids), what="the acks to be confirmed")

    # And its whole life, with times and pods in an order that makes sense.
    for id_ in ids:
        trace = service.wait_for_state(id_, "done")
        assert (trace["id"], trace["state"]) == (id_, "done")
        assert trace["envelope"]["UUID"] == id_
        assert "contacts" not in trace["envelope"]["content"]
        partition, offset = map(int, trace["position"].split(":"))
        assert partition in range(service.settings.topic_partitions)
        assert offset in range(len(ids))
        own = _moments(trace["events"])
        assert own.keys() == {"accepted", "persisted"}
        assert own["persisted"][1] == "persist-0"
        on_screen = _delivery(trace, "alice", "ws")
        called = _delivery(trace, "alice", "webhook")
        assert (on_screen["state"], called["state"]) == ("acked", "sent")
        assert (on_screen["next_check_at"], called["next_check_at"]) == (None, None)
        assert called["attempts"] == 1
        by_ws, by_deliver = _moments(on_screen["events"]), _moments(called["events"])
        assert by_ws.keys() == {"sent", "acked"}
        assert {pod for _, pod in by_ws.values()} == {"ws-0"}
        assert by_deliver["sent"][1] == "deliver-0"
        accepted = own["accepted"][0]
        assert accepted <= own["persisted"][0]
        assert accepted <= by_ws["sent"][0] <= by_ws["acked"][0]
        assert accepted <= by_deliver["sent"][0]
        assert by_ws["acked"][0] - accepted < dt.timedelta(seconds=60)
    assert not service.dead_letters()
    assert [role.sigterm() for role in (persist, deliver, ws)] == [0, 0, 0]


def test_send_waits_for_the_end_and_says_how_it_was(
    service: Service, webhook_receiver: WebhookReceiver
) -> None:
    *_, ws = service.roles(*ROLES, NOTIFYD_STUB_SCRIPT="dead")
    listen = service.listen("alice", ws)

    good = service.run("send", "--to", "alice", "--title", "Hi", "--wait", "--json")
    assert good.returncode == 0, good.stderr
    told = json.loads(good.stdout)
    assert told["state"] == "done"
    assert _messages(listen)[told["id"]]["content"]["title"] == "Hi"
    wait_until(lambda: told["id"] in _confirmed(listen), what="the ack to be confirmed")

    hook = webhook_receiver.script("/ok", 204)
    called = service.run("send", "--to", "bob", "--channel", "webhook", "--webhook", hook, "--wait")
    assert called.returncode == 0, called.stderr
    assert len(webhook_receiver.calls_to("/ok")) == 1

    dead = service.run("send", "--to", "alice", "--channel", "stub", "--title", "Hi", "--wait", "--json")
    assert dead.returncode == 1
    told = json.loads(dead.stdout)
    assert told["state"] == "dead"
    assert "stub to alice is dead (stub_dead)" in dead.stderr
    trace = service.trace(told["id"])
    assert trace is not None
    assert _delivery(trace, "alice", "stub")["events"][-1]["reason"] == "stub_dead"
    (letter,) = service.dead_letters()
    assert (letter["id"], letter["reason"], letter["user"], letter["channel"]) == (
        told["id"],
        "stub_dead",
        "alice",
        "stub",
    )


def test_every_device_of_a_user_gets_a_message_and_no_other_user_sees_it(service: Service) -> None:
    _, ws, other_ws = (
        service.role("persist"),
        service.role("ws"),
        service.role("ws", pod="ws-1"),
    )
    for role in (ws, other_ws):
        role.wait_ready()
    # Two devices at one pod, a third at another.
    devices = [
        service.listen("alice", ws, name="phone"),
        service.listen("alice", ws, "--no-ack", name="laptop"),
        service.listen("alice", other_ws, name="tablet"),
    ]
    stranger = service.listen("mallory", ws)
    both = service.listen("bob", other_ws)

    to_alice = _send(service, "--to", "alice", "--title", "for alice")
    to_both = _send(service, "--to", "alice", "--to", "bob", "--title", "for both")
    to_all = [_send(service, "--to", "mallory", "--title", "for mallory")]
    for device in devices:
        wait_until(
            lambda device=device: _messages(device).keys() == {to_alice, to_both},  # type: ignore[misc]
            what=f"{device.name} to show both",
        )
        assert len(frames_of(device, "msg")) == 2
    wait_until(lambda: _messages(both).keys() == {to_both}, what="bob to see his")
    # What comes last is there, so what is not for them would be, too.
    wait_until(lambda: list(_messages(stranger)) == to_all, what="mallory to see hers")
    assert to_alice not in _messages(both)
    for text in (stranger.output, both.output):
        assert "alice" not in text

    trace = service.wait_for_state(to_both, "done")
    assert [(d["user"], d["state"]) for d in trace["deliveries"]] == [("alice", "acked"), ("bob", "acked")]


def test_a_dead_database_delays_no_push_and_what_came_meanwhile_is_stored_when_it_is_back(
    settings: Settings,
    own_postgres: LocalPostgres,
    start_notifyd: ProcessStarter,
    tmp_path: Path,
    webhook_receiver: WebhookReceiver,
) -> None:
    both = with_database(settings, own_postgres.url)
    service = Service(start_notifyd, both, tmp_path).set_up()
    persist, deliver, ws = service.roles(*ROLES)
    listen = service.listen("alice", ws)
    before = _send(service, "--to", "alice", "--title", "before")
    service.wait_for_state(before, "done")

    own_postgres.stop()
    hook = webhook_receiver.url()
    meanwhile = [
        _send(service, "--to", "alice", "--title", f"meanwhile {number}", "--webhook", hook)
        for number in range(3)
    ]
    wait_until(lambda: _messages(listen).keys() >= set(meanwhile), what="the pushes")
    wait_until(lambda: _confirmed(listen) >= set(meanwhile), what="the confirmed acks")
    webhook_receiver.wait_for_ids(meanwhile)
    persist.wait_for_log("waiting_for_database")
    wait_until(lambda: persist.get("/readyz")[0] == 503, what="persist to say that it is not ready")
    assert persist.get("/healthz")[0] == 200
    assert (deliver.get("/readyz")[0], ws.get("/readyz")[0]) == (200, 200)
    blind = service.run("trace", meanwhile[0])
    assert blind.returncode == 1
    assert blind.stderr.startswith("notifyd: ")
    assert len(blind.stderr.splitlines()) == 1

    own_postgres.start()
    for id_ in meanwhile:
        trace = service.wait_for_state(id_, "done", timeout_s=60)
        states = {delivery["channel"]: delivery["state"] for delivery in trace["deliveries"]}
        assert states == {"ws": "acked", "webhook": "sent"}
    persist.wait_for_log("database_answers_again")
    persist.wait_ready()
    assert not service.dead_letters()
    assert [role.sigterm() for role in (persist, deliver, ws)] == [0, 0, 0]
