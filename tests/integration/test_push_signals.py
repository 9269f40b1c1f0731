"""What one device reads, the others show as read: two `ws` roles on a real broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from notifyd.client import PushClient, PushClosed
from notifyd.message.ids import new_id
from notifyd.push.auth import issue_token
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord
from notifyd.stream.signals import end_sessions
from notifyd.stream.topics import read_incarnation
from tests.fixtures.roles import Surroundings, surroundings
from tests.fixtures.waiting import eventually
from tests.integration.test_push_resume import Hasty, WsPod, ws_pod


class Device:
    """A `PushClient` that runs by itself."""

    def __init__(self, settings: Settings, pod: WsPod, user: str = "alice") -> None:
        self.frames: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.client = PushClient(
            pod.url, lambda: issue_token(settings, user), on_state=self.states.append, random_=Hasty()
        )
        self.closed_with: int | None = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async for frame in self.client:
                self.frames.append(frame)
        except PushClosed as error:
            self.closed_with = error.code

    def of(self, op: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["op"] == op]

    async def stop(self) -> None:
        await self.client.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def two_pods(settings: Settings) -> AsyncIterator[tuple[Surroundings, WsPod, WsPod]]:
    async with surroundings(settings) as around, ws_pod(around.context) as a, ws_pod(around.context) as b:
        yield around, a, b


@asynccontextmanager
async def devices(around: Surroundings, *pods: WsPod, user: str = "alice") -> AsyncIterator[list[Device]]:
    found = [Device(around.context.settings, pod, user) for pod in pods]
    try:
        await eventually(lambda: all(device.of("welcome") for device in found), what="the welcomes")
        yield found
    finally:
        await asyncio.gather(*(device.stop() for device in found))


async def test_what_one_device_reads_the_others_show_wherever_they_are_and_it_is_told_nothing(settings):
    async with (
        two_pods(settings) as (around, a, b),
        devices(around, a, a, b) as (phone, laptop, desk),
        devices(around, b, user="bob") as [bob],
    ):
        ids = [new_id() for _ in range(3)]
        for message_id in ids:
            await around.send(id=message_id, to="alice", title="Hi")
        for device in (phone, laptop, desk):
            await eventually(lambda d=device: len(d.of("msg")) == 3, what="the messages")
        phone.client.mark("read", *ids)
        for device in (laptop, desk):
            await eventually(lambda d=device: d.states, what="the other devices to learn")
            assert device.states == device.of("state") == [{"op": "state", "ids": ids, "set": "read"}]
        await eventually(lambda: not phone.client.unconfirmed, what="the ok")
        # Its own would have come by the time that its next one is through to others.
        phone.client.mark("seen", ids[0])
        await eventually(lambda: len(desk.states) == 2, what="the second state")
        assert desk.states[1] == {"op": "state", "ids": [ids[0]], "set": "seen"}
        assert phone.states == []
        assert bob.states == []


async def test_signals_of_the_past_are_not_told_and_poison_between_them_is_stepped_over(settings):
    async with surroundings(settings) as around, ws_pod(around.context) as a:
        async with devices(around, a, a) as (phone, laptop):
            phone.client.mark("read", new_id())
            await eventually(lambda: laptop.states, what="the state")
        send, topic = around.context.producer.send, around.topics.signals
        await send(OutRecord(topic, b"\x00 no JSON", key=b"alice"))
        await send(OutRecord(topic, b'{"op":"state"}', key=b"alice"))
        await send(OutRecord(topic, None, key=b"alice"))
        async with ws_pod(around.context) as b, devices(around, a, b) as (phone, laptop):
            await send(OutRecord(topic, b'{"op":"end"}', key=b"alice"))
            message_id = new_id()
            phone.client.mark("read", message_id)
            await eventually(lambda: laptop.states, what="the state")
            assert laptop.states == [{"op": "state", "ids": [message_id], "set": "read"}]
        assert around.failures == []


async def test_the_sessions_of_a_user_end_on_every_process_and_old_tokens_are_not_let_in_again(settings):
    async with (
        two_pods(settings) as (around, a, b),
        devices(around, a, b) as (phone, laptop),
        devices(around, b, user="bob") as [bob],
    ):
        now_ms = int(time.time() * 1000) + 1000
        await end_sessions(around.context.producer, around.topics, "alice", now_ms)
        for device in (phone, laptop):
            await eventually(lambda d=device: d.closed_with, what="the end of the session")
            assert device.closed_with == 4401
        assert bob.closed_with is None
        old = issue_token(settings, "alice", now=lambda: now_ms / 1000 - 5)
        new = issue_token(settings, "alice", now=lambda: now_ms / 1000 + 1)
        for token, ops in ((old, ["error"]), (new, ["welcome"])):
            async with aiohttp.ClientSession() as session, session.ws_connect(a.url) as ws:
                await ws.send_json({"op": "hello", "token": token})
                assert [(await ws.receive_json())["op"]] == ops


async def test_what_a_stream_posts_is_told_to_others_and_a_ticket_is_as_old_as_its_token(settings):
    async with two_pods(settings) as (around, a, b), devices(around, b) as [desk]:
        now_s = time.time()
        token = issue_token(settings, "alice")
        bearer, base = {"Authorization": f"Bearer {token}"}, a.url.replace("ws://", "http://")
        acks = base.removesuffix("/v1/push") + "/v1/ack"
        async with aiohttp.ClientSession(headers=bearer) as session, session.get(f"{base}/sse") as stream:
            got: list[dict[str, Any]] = []
            reader = asyncio.create_task(_read_events(stream, got))
            await eventually(lambda: got, what="the welcome")
            mine, other = new_id(), new_id()
            body = {"session": got[0]["session"], "read": [mine]}
            assert (await session.post(acks, json=body)).status == 200
            assert (await session.post(acks, json={"read": [other]})).status == 200
            wrong = await session.post(acks, json={"session": 7, "read": [other]})
            assert (wrong.status, (await wrong.json())["errors"][0]["pointer"]) == (400, "/session")
            await eventually(lambda: len(desk.states) == 2, what="the states")
            await eventually(lambda: len(got) == 2, what="the state of who named no session")
            assert got[1] == {"op": "state", "ids": [other], "set": "read"}
            ticket = (await (await session.post(f"{base}/ticket")).json())["ticket"]
            await end_sessions(around.context.producer, around.topics, "alice", int(now_s * 1000) + 1000)
            await reader
            assert got[-1]["close"] == 4401
            assert (await session.get(f"{base}/sse")).status == 401
        async with aiohttp.ClientSession() as session:
            assert (await session.get(f"{base}/sse", params={"ticket": ticket})).status == 401
            young = issue_token(settings, "alice", now=lambda: now_s + 2)
            header = {"Authorization": f"Bearer {young}"}
            ticket = (await (await session.post(f"{base}/ticket", headers=header)).json())["ticket"]
            assert (await session.get(f"{base}/sse", params={"ticket": ticket})).status == 200


async def _read_events(stream: aiohttp.ClientResponse, got: list[dict[str, Any]]) -> None:
    async for line in stream.content:
        if line.startswith(b"data: "):
            got.append(json.loads(line[6:]))


async def test_acks_go_on_where_signals_cannot_be_written(settings):
    # Nobody made the topic that this process would write signals to.
    async with surroundings(settings) as around, ws_pod(around.context) as pod:
        pod.role._signals._topic = f"{settings.topic_prefix}nowhere"
        async with devices(around, pod, pod) as (phone, laptop):
            message_id = new_id()
            phone.client.mark("read", message_id)
            await eventually(lambda: {"op": "ok", "read": [message_id]} in phone.frames, what="the ok")
            registry, name = around.context.metrics.registry, "notifyd_ws_signals_dropped_total"
            await eventually(
                lambda: registry.get_sample_value(name, {"reason": "topic_missing"}) == 1,
                what="the lost signal to be counted",
            )
            assert laptop.states == []
            assert phone.closed_with is None
        assert await read_incarnation(settings)


@pytest.mark.parametrize("way", ["end", "kill"])
async def test_a_device_whose_connection_ends_in_between_learns_on_the_next_one(settings, way):
    async with two_pods(settings) as (around, a, b), devices(around, a, b) as (phone, laptop):
        if way == "kill":
            b.cut_all()
        else:
            for connection in list(b.role._hub._members.sockets):
                connection.close(1001)
        await eventually(lambda: len(laptop.of("welcome")) == 2, what="the next welcome")
        phone.client.mark("seen", new_id())
        await eventually(lambda: laptop.states, what="the state")
