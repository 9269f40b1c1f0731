"""Resume over a real broker: connections that die at random, processes that come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from notifyd.client import PushClient
from notifyd.message.build import build_envelope
from notifyd.message.envelope import new_id
from notifyd.push.auth import issue_token
from notifyd.push.cursor import Cursor, decode_cursor, encode_cursor
from notifyd.roles.context import RoleContext
from notifyd.roles.ws import WsRole
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord
from tests.fixtures.engines import produce as produce_values
from tests.fixtures.push import next_frames
from tests.fixtures.roles import Surroundings, surroundings
from tests.fixtures.waiting import eventually


class WsPod:
    """A `ws` role in this process, with its public port."""

    def __init__(self, role: WsRole, port: int) -> None:
        self.role = role
        self.url = f"ws://127.0.0.1:{port}/v1/push"

    def cut_all(self) -> None:
        """Lose every connection at once, as when a network goes."""
        for connection in list(self.role._hub._members.sockets):
            connection.abort()


@asynccontextmanager
async def ws_pod(base: RoleContext, **overrides: Any) -> AsyncIterator[WsPod]:
    settings = base.settings.model_copy(update={"drain_s": 0.5, **overrides})
    app = web.Application()
    role = WsRole(replace(base, public=app, settings=settings))
    await role.start()
    await eventually(lambda: not role.waits_for, what="the ws role to be ready")
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield WsPod(role, site.port)
    finally:
        await asyncio.wait_for(role.stop(), 30)
        await runner.cleanup()


class Hasty(random.Random):
    """Comes again soon, as a test should."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, min(b, 0.1))


class Listener:
    """A `PushClient` that runs by itself and counts what it got."""

    def __init__(self, settings: Settings, url: str | list[str], user: str = "alice") -> None:
        self.gaps: list[dict[str, Any]] = []
        self.got: list[str] = []
        self.welcomes: list[dict[str, Any]] = []
        self.client = PushClient(
            url,
            lambda: issue_token(settings, user, ttl_s=3600.0),
            random_=Hasty(7),
            on_gap=self.gaps.append,
        )

    async def run(self) -> None:
        async with self.client:
            async for frame in self.client:
                if frame["op"] == "msg":
                    self.got.append(frame["message"]["UUID"])
                elif frame["op"] == "welcome":
                    self.welcomes.append(frame)


async def produce(around: Surroundings, to: Any, message_id: str | None = None, **more: Any) -> str:
    message_id = message_id or new_id()
    value = build_envelope(to=to, sender="tests", created_by="tests", title="Hi", id=message_id, **more)
    await around.context.producer.send(OutRecord(around.topics.messages, value, key=message_id.encode()))
    return message_id


async def hello(session: aiohttp.ClientSession, settings: Settings, url: str, **more: Any) -> list[Any]:
    """Say hello, and return the frames up to the (first) welcome."""
    frames: list[Any] = []
    async with session.ws_connect(url) as ws:
        await ws.send_json({"op": "hello", "token": issue_token(settings, "alice"), **more})
        while not frames or frames[-1]["op"] != "welcome":
            frames += await next_frames(ws, 15)
    return frames


async def test_connections_that_die_at_random_miss_nothing_here_or_elsewhere(settings: Settings) -> None:
    chance = random.Random(5)
    async with surroundings(settings) as around, AsyncExitStack() as stack:
        pods = [await stack.enter_async_context(ws_pod(around.context)) for _ in range(2)]
        # From one to the other and back, or to each twice.
        orders = [[0, 1], [1, 0], [0, 0, 1, 1]] * 2
        listeners = [Listener(settings, [pods[n].url for n in order]) for order in orders]
        tasks = [asyncio.create_task(listener.run()) for listener in listeners]
        await eventually(lambda: all(one.welcomes for one in listeners), what="all to be welcome")
        sent: list[str] = []
        for _ in range(60):
            batch = [produce(around, chance.choice(["alice", ["alice", "bob"]])) for _ in range(10)]
            sent += await asyncio.gather(*batch)
            if chance.random() < 0.4:
                chance.choice(pods).cut_all()
            await asyncio.sleep(0.01)
        await eventually(
            lambda: all(len(one.got) >= len(sent) for one in listeners), what="all to have everything"
        )
        for listener in listeners:
            assert sorted(listener.got) == sorted(sent)
            assert listener.gaps == []
            assert len(listener.welcomes) > 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_process_that_has_just_started_replays_without_a_database(settings: Settings) -> None:
    async with surroundings(settings) as around, aiohttp.ClientSession() as session:
        async with ws_pod(around.context) as old:
            await produce(around, "alice")
            await eventually(lambda: sum(old.role._hub._window.ends.values()) == 1)
            [welcome] = await hello(session, settings, old.url)
        missed = [await produce(around, "alice") for _ in range(30)]
        await produce(around, "bob")
        async with ws_pod(around.context) as new:
            frames = await hello(session, settings, new.url, cursor=welcome["cursor"])
            assert [frame["message"]["UUID"] for frame in frames[:-1]] != []
            assert {frame["message"]["UUID"] for frame in frames[:-1]} == set(missed)
            assert (frames[-1]["missing"], frames[-1]["replayed"]) == (None, 30)
            # With what came after the cursor, only the rest is sent.
            at = [frame["at"] for frame in frames[:10]]
            again = await hello(session, settings, new.url, cursor=welcome["cursor"], at=at)
            partitions = {text.partition(":")[0]: int(text.partition(":")[2]) for text in at}
            assert [frame["at"] for frame in again[:-1]] == [
                frame["at"]
                for frame in frames[:-1]
                if int(frame["at"].partition(":")[2]) > partitions.get(frame["at"].partition(":")[0], -1)
            ]


async def test_a_place_that_the_process_cannot_vouch_for_is_missing_never_silence(settings: Settings) -> None:
    async with surroundings(settings) as around, aiohttp.ClientSession() as session:
        for _ in range(8):
            await produce(around, "alice")
        async with ws_pod(around.context, ws_window_s=0.0) as pod:
            [fresh] = await hello(session, settings, pod.url)
            place = decode_cursor(fresh["cursor"])
            assert place is not None and sum(place.offsets.values()) == 8
            beyond = {partition: offset + 5 for partition, offset in place.offsets.items()}
            for what in (
                encode_cursor(Cursor("another-life", place.offsets)),
                encode_cursor(Cursor(place.incarnation, beyond)),
                encode_cursor(Cursor(place.incarnation, {})),  # before what the window holds
                encode_cursor(Cursor(place.incarnation, {**place.offsets, 77: 1})),
                "nonsense",
            ):
                [welcome] = await hello(session, settings, pod.url, cursor=what)
                assert (welcome["missing"], welcome["cursor"]) == ("inbox", fresh["cursor"])
            [welcome] = await hello(session, settings, pod.url, cursor=fresh["cursor"])
            assert welcome["missing"] is None


async def test_who_must_read_the_inbox_gets_what_may_not_be_stored_yet(settings: Settings) -> None:
    async with (
        surroundings(settings) as around,
        ws_pod(around.context) as pod,
        aiohttp.ClientSession() as session,
    ):
        sent = {await produce(around, "alice") for _ in range(5)}
        await produce(around, "bob")
        await eventually(lambda: sum(pod.role._hub._window.ends.values()) == 6)
        [fresh] = await hello(session, settings, pod.url)
        place = decode_cursor(fresh["cursor"])
        assert place is not None
        for what in ("nonsense", encode_cursor(Cursor(place.incarnation, {**place.offsets, 77: 1}))):
            *messages, welcome = await hello(session, settings, pod.url, cursor=what)
            assert {frame["message"]["UUID"] for frame in messages} == sent
            assert (welcome["missing"], welcome["replayed"]) == ("inbox", 5)
            assert welcome["cursor"] == fresh["cursor"]


@pytest.mark.needs_kafka(reason="the embedded broker cannot add partitions")
async def test_partitions_added_while_running_lose_nothing(settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("notifyd.stream.consumer._METADATA_AGE_MS", 1000)
    async with surroundings(settings) as around, ws_pod(around.context) as pod:
        listener = Listener(settings, pod.url)
        task = asyncio.create_task(listener.run())
        await eventually(lambda: listener.welcomes)
        sent = [await produce(around, "alice") for _ in range(5)]
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
        await admin.start()
        await admin.create_partitions({around.topics.messages: NewPartitions(total_count=6)})
        await admin.close()
        for partition in (4, 5):
            message_id = new_id()
            value = build_envelope(to="alice", sender="t", created_by="t", title="Hi", id=message_id)
            # A producer of its own: the role's has yet to learn of the new partitions.
            await produce_values(settings, around.topics.messages, [value], partition=partition)
            sent.append(message_id)
        pod.cut_all()
        await eventually(lambda: sorted(listener.got) == sorted(sent), what="messages of new partitions")
        await eventually(lambda: len(listener.welcomes) > 1)
        assert listener.gaps == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
