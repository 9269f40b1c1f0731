"""What the README promises of `make dev`: all at once, found from a second terminal, gone with Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from notifyd.dev.child import is_alive
from tests.fixtures.processes import NotifydProcess, ProcessStarter, http_get, run_notifyd
from tests.fixtures.system import children_of
from tests.fixtures.waiting import wait_until


def _welcome(process: NotifydProcess) -> dict[str, Any]:
    def line() -> str:
        assert process.is_running, process.tail()
        return process.output if process.output.endswith("\n") else ""

    found: dict[str, Any] = json.loads(wait_until(line, timeout_s=90, what="the welcome", every_s=0.05))
    return found


def _trace(folder: Path, message_id: str) -> dict[str, Any]:
    done = run_notifyd("trace", message_id, "--json", cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def test_a_message_reaches_a_second_terminal_and_its_life_outlives_ctrl_c(
    start_notifyd: ProcessStarter, tmp_path: Path
) -> None:
    dev = start_notifyd("dev", "--json", name="dev")
    welcome = _welcome(dev)
    assert http_get(welcome["urls"]["ready"])[0] == 200
    status, page = http_get(welcome["urls"]["page"])
    assert (status, page.startswith("<!doctype html>")) == (200, True)
    children = children_of(dev.pid)

    # From here on as in a second terminal: the folder alone says where everything is.
    listen = start_notifyd(
        "listen", "--user", "alice", "--json", "--count", "1", "--timeout", "60", name="listen"
    )
    wait_until(lambda: '"welcome"' in listen.output, timeout_s=30, what="the client to be welcomed")
    sent = run_notifyd("send", "--to", "alice", "--title", "Hi", "--wait", "--json", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    message_id = json.loads(sent.stdout.splitlines()[0])["id"]
    assert listen.wait() == 0
    frames = [json.loads(line) for line in listen.output.splitlines()]
    (message,) = [frame["message"] for frame in frames if frame.get("op") == "msg"]
    assert (message["UUID"], message["content"]["title"]) == (message_id, "Hi")

    def acked() -> dict[str, Any]:
        trace = _trace(tmp_path, message_id)
        states = [(d["user"], d["channel"], d["state"]) for d in trace.get("deliveries", [])]
        return trace if states == [("alice", "ws", "acked")] else {}

    trace = wait_until(acked, timeout_s=30, what="the trace to say acked", every_s=0.2)
    stages = [event["stage"] for event in trace["deliveries"][0]["events"]]
    assert "acked" in stages

    dev.signal(signal.SIGINT)
    assert dev.wait(timeout_s=25) == 0
    assert not any(is_alive(child) for child in children)

    again = start_notifyd("dev", "--json", name="dev-again")
    _welcome(again)
    assert _trace(tmp_path, message_id)["deliveries"][0]["state"] == "acked"
    assert again.sigterm(timeout_s=25) == 0
