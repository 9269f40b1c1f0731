"""A message's whole life in one screen: the README shows what this test prints (pytest -s)."""

from __future__ import annotations

import json
from typing import Any

from notifyd.message.build import build_envelope
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver


def _send(service: Service, webhook_receiver: WebhookReceiver) -> str:
    busy = webhook_receiver.script("/busy", 503, 204)
    fine = webhook_receiver.script("/fine", 204)
    envelope = build_envelope(
        to=["alice", "bob"],
        sender="orders",
        created_by="orders-svc",
        type="order.shipped",
        title="On its way",
        channels=["ws", "webhook", "stub"],
        contacts={
            "alice": {"userId": "alice", "webhook": [{"url": busy}]},
            "bob": {"userId": "bob", "webhook": [{"url": fine}], "mute": [{"channel": "stub"}]},
        },
    )
    sent = service.run("send", "-", "--json", stdin=envelope)
    assert sent.returncode == 0, sent.stderr
    message_id: str = json.loads(sent.stdout)["id"]
    return message_id


def test_two_recipients_three_channels_a_retry_a_death_and_an_absent_user_in_one_screen(
    service: Service, webhook_receiver: WebhookReceiver
) -> None:
    quick = {
        "NOTIFYD_SWEEP_CHECK_AFTER_S": "2",
        "NOTIFYD_SWEEP_EVERY_S": "0.2",
        "NOTIFYD_STUB_SCRIPT": "dead",
    }
    *_, ws = service.roles("persist", "deliver", "sweep", "ws", **quick)
    phone = service.listen("alice", ws)
    # Of a process that nobody has heard of yet the sweep would say that it is lost.
    wait_until(lambda: service.rows("SELECT 1 FROM pod_position"), what="ws to tell how far it is")
    message_id = _send(service, webhook_receiver)
    wait_until(lambda: frames_of(phone, "ok"), what="alice's phone to have it")

    # Halfway: what is not known yet is named, with what it waits for.
    def waiting() -> dict[str, Any] | None:
        found = service.trace(message_id)
        called = [d for d in (found or {}).get("deliveries", ()) if d["state"] == "retry_wait"]
        return called[0] if called else None

    wait_until(waiting, what="the webhook to wait for its second attempt")
    halfway = waiting()
    assert halfway is None or (halfway["waits_for"], halfway["waits_until"]) == (
        "attempt 2",
        halfway["events"][-1]["due_at"],
    )

    final = "SELECT count(*) FROM delivery WHERE is_final"
    wait_until(lambda: service.rows(final) == [(6,)], what="all six deliveries to end", timeout_s=120)
    trace = service.trace(message_id)
    assert trace is not None
    assert trace["state"] == "dead"
    lives = {(d["user"], d["channel"]): d for d in trace["deliveries"]}
    assert {key: (d["state"], d["events"][-1]["reason"]) for key, d in lives.items()} == {
        ("alice", "ws"): ("acked", None),
        ("alice", "webhook"): ("sent", None),
        ("alice", "stub"): ("dead", "stub_dead"),
        ("bob", "ws"): ("stored", "absent"),
        ("bob", "webhook"): ("sent", None),
        ("bob", "stub"): ("skipped", "muted"),
    }
    hook = lives["alice", "webhook"]
    assert [(e["stage"], e["attempt"], e["reason"], e["pod"]) for e in hook["events"]] == [
        ("retry_wait", 1, "http_503", "deliver-0"),
        ("sent", 2, None, "deliver-0"),
    ]
    assert all(d["waits_for"] is None and d["unknown"] == [] for d in lives.values())

    drawn = service.run("trace", message_id, PYTHONIOENCODING="utf-8", COLUMNS="110")
    assert drawn.returncode == 0, drawn.stderr
    lines = drawn.stdout.splitlines()
    assert len(lines) <= 40  # a screen
    assert max(map(len, lines)) <= 110
    for words in (
        "alice by ws: acked",
        "http_503",
        "due ",
        "stub_dead",
        "bob by ws: stored",
        "absent",
        "muted",
    ):
        assert words in drawn.stdout
    for secret in ("/busy", "/fine", str(webhook_receiver.port)):
        assert secret not in drawn.stdout
    print(drawn.stdout)
