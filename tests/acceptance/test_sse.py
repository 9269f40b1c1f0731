"""Server-sent events over real processes: one is killed, one is ended, and the client misses nothing."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service
from tests.fixtures.sse import EventReader, open_events
from tests.fixtures.waiting import eventually


def _send(service: Service, count: int) -> list[str]:
    """Send messages to alice by the command line; return their ids."""
    ids = []
    for number in range(count):
        done = service.run("send", "--to", "alice", "--title", f"{number}", "--json")
        assert done.returncode == 0, done.stderr
        ids.append(json.loads(done.stdout)["id"])
    return ids


async def _messages(stream: EventReader, count: int) -> list[str]:
    """Read until so many messages came; return their ids."""
    ids: list[str] = []
    while len(ids) < count:
        frame = await stream.frame(20)
        if frame["op"] == "msg":
            ids.append(frame["message"]["UUID"])
    return ids


async def _post(process: NotifydProcess, path: str, token: str, body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(process.http_url + path, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_stream_outlives_the_processes_that_serve_it(service: Service) -> None:
    service.role("persist").wait_ready()
    one, two = (service.role("ws", pod=f"ws-{n}", NOTIFYD_WS_HEARTBEAT_S="1") for n in range(2))
    one.wait_ready()
    two.wait_ready()
    token = service.run("token", "alice").stdout.strip()

    async with open_events(one.http_url, token) as stream:
        await stream.until("welcome")
        before = _send(service, 3)
        assert sorted(await _messages(stream, 3)) == sorted(before)
        # Acknowledged where the stream is not, as behind any load balancer.
        assert await _post(two, "/v1/ack", token, {"ack": before}) == (
            200, {"ok": {"ack": before}, "refused": []}
        )  # fmt: skip
        await stream.until("pos")
        place = stream.last_id
        one.kill()
        assert await stream.next() is None
    missed = _send(service, 4)

    # A browser comes back to another process with its last id, and with a ticket of yet another life.
    one.start().wait_ready()
    status, ticket = await _post(one, "/v1/push/ticket", token)
    assert status == 200
    back = {"Last-Event-ID": str(place)}
    async with open_events(two.http_url, headers=back, ticket=ticket["ticket"]) as stream:
        frames = await stream.until("welcome", 20)
        assert sorted(frame["message"]["UUID"] for frame in frames[:-1]) == sorted(missed)
        assert (frames[-1]["replayed"], frames[-1]["missing"]) == (4, None)
        async with open_events(two.http_url, ticket=ticket["ticket"]) as again:
            assert again.response.status == 401
        assert (await _post(one, "/v1/ack", token, {"ack": missed, "read": missed[:1]}))[0] == 200

        live = _send(service, 1)
        assert await _messages(stream, 1) == live
        await stream.until("pos")
        place = stream.last_id
        two.signal(15)
        frames = await stream.rest(20)
        assert "drain" in [frame["op"] for frame in frames]
    assert two.wait() == 0
    late = _send(service, 1)
    async with open_events(one.http_url, token, cursor=place) as stream:
        frames = await stream.until("welcome", 20)
        assert [frame["message"]["UUID"] for frame in frames[:-1]] == late
        assert frames[-1]["missing"] is None

    # Every ack has reached the database, whichever process took it; the last two were never acknowledged.
    sql = "SELECT state, count(*) FROM delivery WHERE channel = 'ws' GROUP BY 1 ORDER BY 1"
    await eventually(lambda: service.rows(sql) == [("acked", 7), ("sent", 2)], timeout_s=30, what="acks")
