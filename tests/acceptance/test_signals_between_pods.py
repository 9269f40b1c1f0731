"""Two `ws` processes, one user with a device at each: what one reads the other shows; and signing out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from notifyd.client import PushClient, PushClosed
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service, frames_of
from tests.fixtures.waiting import wait_until


class Reader:
    """A device that reads the first message it gets, and keeps what it was told."""

    def __init__(self, ws: NotifydProcess, token: str) -> None:
        self.url = f"{ws.http_url.replace('http', 'ws', 1)}/v1/push"
        self.token = token
        self.frames: list[dict[str, Any]] = []

    async def read_one(self, send: Any) -> str:
        """Return the id of the message that it said `read` of, once the server has that."""
        async with asyncio.timeout(30), PushClient(self.url, self.token) as client:
            async for frame in client:
                self.frames.append(frame)
                if frame["op"] == "welcome":
                    await asyncio.to_thread(send)
                elif frame["op"] == "msg":
                    client.mark("read", frame["message"]["UUID"])
                elif "read" in frame:
                    message_id: str = frame["read"][0]
                    return message_id
        raise AssertionError("the connection ended")


def _send(service: Service, to: str) -> str:
    sent = service.run("send", "--to", to, "--title", "On its way", "--json")
    assert sent.returncode == 0, sent.stderr
    found: str = json.loads(sent.stdout)["id"]
    return found


def test_a_message_read_on_one_device_shows_as_read_on_the_other_and_a_killed_process_matters_not(
    service: Service,
) -> None:
    first = service.role("ws", pod="ws-a").wait_ready()
    second = service.role("ws", pod="ws-b").wait_ready()
    laptop = service.listen("alice", second, name="laptop")
    token = service.run("token", "alice").stdout.strip()

    reader = Reader(first, token)
    message_id = asyncio.run(reader.read_one(lambda: _send(service, "alice")))
    wait_until(lambda: frames_of(laptop, "state"), what="the laptop to learn")
    assert frames_of(laptop, "state") == [{"op": "state", "ids": [message_id], "set": "read"}]
    assert [frame for frame in reader.frames if frame["op"] == "state"] == []

    # kill -9 of the process that wrote it, another in its place: what comes next is told as before.
    first.kill()
    third = service.role("ws", pod="ws-c").wait_ready()
    message_id = asyncio.run(Reader(third, token).read_one(lambda: _send(service, "alice")))
    wait_until(lambda: len(frames_of(laptop, "state")) == 2, what="the laptop to learn again")
    assert frames_of(laptop, "state")[1]["ids"] == [message_id]


def test_an_operator_signs_a_user_out_of_all_processes(service: Service) -> None:
    pods = [service.role("ws", pod=f"ws-{name}").wait_ready() for name in "ab"]
    token = service.run("token", "alice").stdout.strip()
    alice = [service.listen("alice", ws, "--token", token, name=f"alice-{n}") for n, ws in enumerate(pods)]
    bob = service.listen("bob", pods[0])

    done = service.run("sessions", "end", "alice", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["user"] == "alice"
    for listen in alice:
        assert listen.wait() == 1
        assert frames_of(listen, "error")[-1]["code"] == "unauthorised"
    assert bob.is_running

    async def come_again() -> int:
        async with PushClient(f"{pods[1].http_url.replace('http', 'ws', 1)}/v1/push", token) as client:
            try:
                async for _ in client:
                    pass
            except PushClosed as error:
                return error.code
        return 0

    assert asyncio.run(come_again()) == 4401

    for wrong in (("--before", "tomorrow"), ("--before", "2999-01-01T00:00:00Z")):
        assert service.run("sessions", "end", "alice", *wrong).returncode == 2
    assert service.run("sessions", "end", "").returncode == 2
