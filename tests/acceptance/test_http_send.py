"""A message sent by HTTP, through processes as operators run them, to a device and into the trace."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from typing import Any

from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until


def _token(service: Service, *scopes: str) -> str:
    done = service.run("token", "shop", *(part for scope in scopes for part in ("--scope", scope)))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _post(api: NotifydProcess, body: Any, token: str, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{api.http_url}/v1/messages",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_message_sent_by_http_reaches_a_device_and_the_trace(service: Service) -> None:
    _, ws, api = service.roles("persist", "ws", "api")
    listen = service.listen("alice", ws)
    token = _token(service, "notify:send")
    status, body = _post(api, {"toUserIds": ["alice"], "content": {"title": "Hi"}}, token)
    assert status == 202, body
    (frame,) = wait_until(lambda: frames_of(listen, "msg"), what="the message to arrive")
    message = frame["message"]
    assert (message["UUID"], message["content"]["title"]) == (body["id"], "Hi")
    assert (message["from"], message["createBy"]) == ("shop", "shop")
    trace = service.wait_for_state(body["id"], "done")
    assert trace["position"] == body["position"]
    assert trace["envelope"]["toUserIds"] == ["alice"]

    # The answer was lost on the way, the caller repeats it.
    again = _post(
        api, {"toUserIds": ["alice"], "content": {"title": "Hi"}}, token, **{"Idempotency-Key": body["id"]}
    )
    assert (again[0], again[1]["id"]) == (202, body["id"])
    later = _post(api, {"toUserIds": ["alice"], "content": {"title": "Later"}}, token)
    wait_until(
        lambda: later[1]["id"] in [one["message"]["UUID"] for one in frames_of(listen, "msg")],
        what="what was sent after the repetition to arrive",
    )
    service.wait_for_state(later[1]["id"], "done")
    assert service.dead_letters() == [], "a repetition is no conflict"
    assert service.rows("SELECT count(*) FROM message") == [(2,)]

    assert _post(api, {}, _token(service))[0] == 403
    assert api.sigterm() == 0


def test_each_role_answers_for_itself_on_the_port_that_they_share(service: Service) -> None:
    (both,) = service.roles("ws,api")
    listen = service.listen("alice", both)
    status, body = _post(both, {"toUserIds": ["alice"], "content": {}}, _token(service, "notify:send"))
    assert status == 202, body
    wait_until(lambda: frames_of(listen, "msg"), what="the message to arrive")
    both.signal(signal.SIGTERM)
    assert both.wait(timeout_s=20) == 0
