"""A message sent by HTTP, through processes as operators run them, to a device and into the trace."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from notifyd.message.ids import new_id
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


def test_what_is_asked_before_the_signal_and_until_the_end_is_answered(service: Service) -> None:
    (api,) = service.roles("api")
    token = _token(service, "notify:send")
    body = json.dumps({"toUserIds": ["alice"], "content": {}}).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api.port("http")), timeout=30) as half:
        half.sendall(head.encode() + body[:-1])
        wait_until(lambda: api.metric("notifyd_api_in_flight_requests") == 1, what="the request to be begun")
        api.signal(signal.SIGTERM)
        api.wait_for_log("stopping")
        # A load balancer hears of it later than we do.
        status, told = _post(api, {"toUserIds": ["bob"], "content": {}}, token)
        assert (status, list(told)) == (202, ["id", "position"])
        half.sendall(body[-1:])
        assert half.makefile("rb").readline().split()[1] == b"202"
    assert api.wait(timeout_s=20) == 0


def test_a_killed_process_costs_nothing_that_is_repeated_under_its_uuid(service: Service) -> None:
    service.roles("persist")
    api = service.role("api").wait_ready()
    token = _token(service, "notify:send")
    open_ = {new_id() for _ in range(300)}
    confirmed: set[str] = set()

    def post(key: str) -> None:
        try:
            status, body = _post(
                api, {"toUserIds": ["alice"], "content": {"title": key}}, token, **{"Idempotency-Key": key}
            )
        except (OSError, http.client.HTTPException):
            return  # it was killed: nobody knows
        if status == 202:
            assert body["id"] == key
            confirmed.add(key)

    with ThreadPoolExecutor(20) as pool:
        first = [pool.submit(post, key) for key in sorted(open_)]
        wait_until(lambda: len(confirmed) > 50, what="some to be confirmed", every_s=0.001)
        api.kill()
        for done in first:
            done.result()
        assert confirmed < open_, "it was killed in the middle"
        api = service.role("api").wait_ready()
        for done in [pool.submit(post, key) for key in sorted(open_)]:  # the confirmed ones too
            done.result()
    assert confirmed == open_
    wait_until(
        lambda: service.rows("SELECT count(*) FROM message") == [(300,)],
        timeout_s=60,
        every_s=0.2,
        what="all to be stored, once",
    )
    assert service.dead_letters() == []
