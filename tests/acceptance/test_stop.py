"""Ends: in order and in time on a signal, with what was done committed; by the watchdog otherwise."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest

from tests.fixtures.engines import committed
from tests.fixtures.load import Load
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import Answer, WebhookReceiver

#: From the signal to the end, as Kubernetes is told to allow; the watchdog comes before.
GRACE_S = 10.0
DELIVERED = "SELECT state, count(*) FROM delivery GROUP BY 1"


def _sigterm(process: NotifydProcess, *, times: int = 1) -> int:
    """Send SIGTERM, see that it is not ready from that moment on, and return the exit code in time."""
    for _ in range(times):
        process.signal(signal.SIGTERM)
    process.wait_for_log("stopping")
    status, body = process.get("/readyz")
    # 0: it was gone before we asked.
    assert status == 0 or (status, json.loads(body)["waits_for"]) == (503, ["stopping"])
    return process.wait(timeout_s=GRACE_S)


def _group(service: Service, role: str) -> str:
    return f"{service.settings.topic_prefix.rstrip('.')}-{role}"


def _committed(service: Service, role: str, topic: str) -> list[int | None]:
    return asyncio.run(
        committed(service.settings, _group(service, role), f"{service.settings.topic_prefix}{topic}")
    )


def _wait_until_sent(service: Service, number: int) -> None:
    wait_until(
        lambda: service.rows(DELIVERED) == [("sent", number)],
        # Some may be put off for a minute: on a slow machine the receiver's first answer is a slow one.
        timeout_s=150,
        every_s=0.3,
        what=f"all {number} deliveries to be sent",
    )


@pytest.mark.parametrize("roles", ["deliver", "all"])
def test_a_stop_under_load_drains_and_repeats_no_call(
    service: Service, webhook_receiver: WebhookReceiver, roles: str
) -> None:
    # Each call takes long enough that there are always many under way, and less than the drain.
    url = webhook_receiver.script("/slow", Answer(delay_s=0.5))
    env = {"NOTIFYD_WEBHOOK_HOST_CONCURRENCY": "200"}
    if roles == "deliver":
        service.roles("persist")
    stopped = service.role(roles, pod="first", **env).wait_ready()
    with Load(service.settings, count=3000, per_s=200, webhook=url) as load:
        webhook_receiver.wait_for(300)
        assert _sigterm(stopped) == 0
        stopped.start()
        stopped.wait_ready()
        webhook_receiver.wait_for(700)
        # A second signal changes nothing: the first one's drain goes on.
        assert _sigterm(stopped, times=2) == 0
        ids = load.end()
    assert "drain_cut" not in stopped.log
    service.role(roles, pod="last", **env).wait_ready()
    _wait_until_sent(service, len(ids))
    repeated = {one: calls for one, calls in webhook_receiver.counts().items() if calls > 1}
    print(f"{len(repeated)} of {len(ids)} messages were called for more than once over two stops")
    assert not repeated
    assert service.dead_letters() == []


def test_persist_commits_what_it_wrote_before_it_ends(service: Service) -> None:
    persist = service.role("persist").wait_ready()
    with Load(service.settings, count=20_000, per_s=2000, channels=["stub"]) as load:
        wait_until(lambda: service.rows("SELECT count(*) > 2000 FROM message") == [(True,)], timeout_s=30)
        assert _sigterm(persist) == 0
        ids = load.end()
    marks = service.rows(
        "SELECT next_offset FROM partition_mark WHERE topic = %s ORDER BY kafka_partition",
        f"{service.settings.topic_prefix}messages",
    )
    assert _committed(service, "persist", "messages") == [offset for (offset,) in marks]
    # The rows are those below the marks: nothing was written beyond, nothing is written twice.
    assert service.rows("SELECT count(*) FROM message") == [(sum(offset for (offset,) in marks),)]
    persist.start()
    wait_until(lambda: service.rows("SELECT count(*) FROM message") == [(len(ids),)], timeout_s=60)


def test_ws_sends_its_clients_away_and_ends(service: Service) -> None:
    first, second = service.role("ws", pod="ws-0").wait_ready(), service.role("ws", pod="ws-1").wait_ready()
    listen = service.listen("user-5", first)
    with Load(service.settings, count=2000, per_s=200, channels=["ws"]) as load:
        wait_until(lambda: len(load.confirmed) > 100, what="messages to be under way")
        assert _sigterm(first) == 0
        load.end()
    assert frames_of(listen, "drain")
    assert second.is_running


@pytest.mark.parametrize("away", ["broker", "database"])
def test_a_stop_while_it_waits_for_what_is_away_is_prompt(service: Service, away: str) -> None:
    nobody = {
        "broker": {"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        "database": {"NOTIFYD_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d"},
    }[away]
    # With the database away the others of the process work already, and end in order too.
    process = service.role("all", pod="waiting", **nobody)
    process.wait_for_log(f"waiting_for_{away}")
    assert _sigterm(process) == 0
    assert process.log_entries("stop_failed") == []
    assert process.log_entries()[-1]["event"] == "stopped"


def _send_to_stub(service: Service) -> str:
    sent = service.run("send", "--to", "alice", "--title", "Hi", "--channel", "stub", "--json")
    assert sent.returncode == 0, sent.stderr
    found: str = json.loads(sent.stdout)["id"]
    return found


def _sent_after_a_restart(service: Service, message_id: str) -> None:
    """Nothing was acknowledged by the process that was cut: the next one does it."""
    service.roles("persist", "deliver")
    wait_until(
        lambda: service.rows("SELECT state FROM delivery WHERE message_id = %s", message_id) == [("sent",)],
        timeout_s=60,
        what="the delivery to be sent",
    )


def test_a_handler_that_hangs_is_cut_at_the_end_of_the_drain(service: Service) -> None:
    deliver = service.role(
        "deliver",
        pod="hanging",
        NOTIFYD_STUB_SCRIPT="hang",
        NOTIFYD_DRAIN_S="1.5",
        NOTIFYD_GRACE_S="5",
    ).wait_ready()
    message_id = _send_to_stub(service)
    wait_until(lambda: deliver.metric("notifyd_records_total", role="deliver") == 1)
    began = time.monotonic()
    assert _sigterm(deliver) == 0
    assert time.monotonic() - began > 1.4, "it had its time to end"
    (cut,) = deliver.log_entries("drain_cut")
    assert cut["role"] == "deliver"
    assert len(cut["running"]) == 1
    assert cut["running"][0].startswith(f"{service.settings.topic_prefix}messages:")
    assert "Traceback" not in deliver.log
    assert deliver.log_entries("watchdog_ended_the_process") == []
    _sent_after_a_restart(service, message_id)


@pytest.mark.parametrize("fault", ["deaf", "block"])
def test_a_handler_that_will_not_end_is_ended_by_the_watchdog(service: Service, fault: str) -> None:
    deliver = service.role(
        "deliver",
        pod="stuck",
        NOTIFYD_STUB_SCRIPT=fault,
        NOTIFYD_DRAIN_S="1",
        NOTIFYD_GRACE_S="3",
    ).wait_ready()
    message_id = _send_to_stub(service)
    if fault == "block":
        wait_until(lambda: deliver.get("/healthz", timeout_s=0.5)[0] == 0, what="the loop to be stuck")
    else:
        wait_until(lambda: deliver.metric("notifyd_records_total", role="deliver") == 1)
    deliver.signal(signal.SIGTERM)
    assert deliver.wait(timeout_s=GRACE_S) == 70
    assert "Traceback" not in deliver.log
    last = deliver.log_entries()[-1]
    assert (last["event"], last["exit_code"]) == ("watchdog_ended_the_process", 70)
    (running,) = last["running"]
    assert running.startswith(f"deliver: {service.settings.topic_prefix}messages:")
    if fault == "block":
        assert last["loop_at"][0].startswith("send (")
        assert "stub.py" in last["loop_at"][0]
    _sent_after_a_restart(service, message_id)


def test_another_ctrl_c_ends_at_once(service: Service) -> None:
    deliver = service.role(
        "deliver", pod="hasty", NOTIFYD_STUB_SCRIPT="block", NOTIFYD_GRACE_S="60"
    ).wait_ready()
    _send_to_stub(service)
    wait_until(lambda: deliver.get("/healthz", timeout_s=0.5)[0] == 0, what="the loop to be stuck")

    def has_ended() -> bool:
        if deliver.is_running:
            deliver.signal(signal.SIGINT)
        return not deliver.is_running

    wait_until(has_ended, timeout_s=GRACE_S, every_s=0.2, what="the process to end")
    assert deliver.returncode == 130
