"""`PushClient` against real servers: what it survives, what it repeats, when it gives up."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiohttp import web

from notifyd.client import PushClient, PushClosed
from notifyd.message.envelope import new_id
from notifyd.push.endpoint import add_push_routes
from tests.fixtures.push import PushServer, make_message, push_settings, running_push_server
from tests.fixtures.waiting import eventually


class _AtOnce(random.Random):
    """Waits nothing: tests need no jitter."""

    def uniform(self, a: float, b: float) -> float:
        return a


class _Ceilings(_AtOnce):
    """Keeps the longest that each wait could have been."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.seen.append(b)
        return a


async def next_message(client: PushClient) -> dict:
    async with asyncio.timeout(10):
        async for frame in client:
            if frame["op"] == "msg":
                return frame["message"]
    raise AssertionError("the iteration ended")


async def next_op(client: PushClient, op: str) -> dict:
    async with asyncio.timeout(10):
        async for frame in client:
            if frame["op"] == op:
                return frame
    raise AssertionError("the iteration ended")


async def test_messages_come_once_and_are_acked_until_confirmed():
    async with running_push_server() as server:
        async with PushClient(server.url, server.token, random_=_AtOnce()) as client:
            await next_op(client, "welcome")
            message = make_message()
            server.publish(message)
            server.publish(message)
            assert (await next_message(client))["UUID"] == message.id
            await next_op(client, "ok")
            assert client.unconfirmed == 0
        first = server.events.written[0]
        assert (first.id, first.stage) == (message.id, "acked")


async def test_leaving_the_block_confirms_the_last_message():
    async with running_push_server() as server:
        async with PushClient(server.url, server.token, random_=_AtOnce()) as client:
            await next_op(client, "welcome")
            server.publish(make_message())
            await next_message(client)
        assert [event.stage for event in server.events.written] == ["acked"]


async def test_without_acks_the_server_knows_that_sent_is_the_end():
    async with running_push_server() as server:
        async with PushClient(server.url, server.token, acks=False, random_=_AtOnce()) as client:
            await next_op(client, "welcome")
            server.publish(make_message())
            await next_message(client)
        assert server.events.written == []
        assert [event.detail for event in server.events.posted] == ["no_acks"]


async def test_unconfirmed_acks_go_to_the_next_connection():
    async with running_push_server() as server:
        server.events.gate.clear()
        async with PushClient(server.url, server.token, acks_itself=False, random_=_AtOnce()) as client:
            await next_op(client, "welcome")
            message_id = new_id()
            client.ack(message_id)
            reading = asyncio.create_task(next_op(client, "welcome"))
            await eventually(lambda: server.events.attempts == 1)
            for connection in list(server.hub._members.sockets):
                connection.abort()
            await reading
            assert client.unconfirmed == 1
            server.events.gate.set()
            await next_op(client, "ok")
            assert client.unconfirmed == 0


async def test_a_drain_moves_the_client_to_another_server_within_the_window():
    async with running_push_server() as old, running_push_server() as new:
        client = PushClient([old.url, new.url], old.token, random_=_AtOnce())
        async with client:
            await next_op(client, "welcome")
            draining = asyncio.create_task(old.hub.drain(1.0))
            await next_op(client, "drain")
            welcome = await next_op(client, "welcome")
            assert welcome["missing"] is None
            assert new.hub.connections == 1
            await draining


async def test_a_final_close_code_raises():
    async with running_push_server() as server, PushClient(server.url, "nonsense") as client:
        with pytest.raises(PushClosed) as closed:
            await next_op(client, "welcome")
        assert closed.value.code == 4401
        assert closed.value.reason == "unauthorised"


async def test_a_server_that_comes_late_is_waited_for(unused_tcp_port: int):
    states: list[str] = []
    server = PushServer(push_settings())
    url = f"ws://127.0.0.1:{unused_tcp_port}/v1/push"
    client = PushClient(
        url, server.token, random_=_AtOnce(), on_connection=lambda state, detail: states.append(state)
    )
    async with client:
        reading = asyncio.create_task(next_op(client, "welcome"))
        await eventually(lambda: "waiting" in states)
        app = web.Application()
        add_push_routes(app, server.hub, server.verifier, server.settings)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        await reading
        assert states[-1] == "open"
        await server.hub.drain(0)
        await runner.cleanup()


async def test_servers_that_come_and_go_do_not_make_a_client_wait_longer_each_time():
    async with running_push_server() as server:
        waits = _Ceilings()
        async with PushClient(server.url, server.token, random_=waits) as client:
            await next_op(client, "welcome")
            for _ in range(8):
                for connection in list(server.hub._members.sockets):
                    connection.abort()
                await next_op(client, "welcome")
        assert waits.seen == [0.5, 1, 2, 2, 2, 2, 2, 2]


async def test_a_server_that_is_not_there_is_asked_less_and_less_often(unused_tcp_port: int):
    waits = _Ceilings()
    url = f"ws://127.0.0.1:{unused_tcp_port}/v1/push"
    client = PushClient(url, "token", random_=waits)
    async with client:
        reading = asyncio.create_task(next_op(client, "welcome"))
        await eventually(lambda: len(waits.seen) >= 8)
        reading.cancel()
    assert waits.seen[:8] == [0.5, 1, 2, 4, 8, 15, 15, 15]


async def test_of_several_addresses_all_are_tried_before_the_waits_become_longer(unused_tcp_port: int):
    gone = f"ws://127.0.0.1:{unused_tcp_port}/v1/push"
    waits = _Ceilings()
    async with running_push_server() as server:
        async with PushClient([gone, gone, server.url], server.token, random_=waits) as client:
            await next_op(client, "welcome")
            assert client.url == server.url
        assert waits.seen == [0.5, 0.5]
    waits = _Ceilings()
    async with PushClient([gone, gone], "token", random_=waits) as client:
        reading = asyncio.create_task(next_op(client, "welcome"))
        await eventually(lambda: len(waits.seen) >= 6)
        reading.cancel()
    assert waits.seen[:6] == [0.5, 0.5, 0.5, 1, 0.5, 2]


async def test_an_async_token_source_is_asked_at_each_connection():
    async with running_push_server() as server:
        asked = []

        async def source() -> str:
            asked.append(1)
            return server.token()

        async with PushClient(server.url, source, random_=_AtOnce()) as client:
            await next_op(client, "welcome")
            for connection in list(server.hub._members.sockets):
                connection.abort()
            await next_op(client, "welcome")
        assert len(asked) == 2


async def test_a_gap_is_filled_before_the_cursor_moves_and_told_again_where_that_fails():
    async with running_push_server() as server:
        server.publish(make_message("nobody"))
        told: list[dict] = []

        async def read_inbox(frame: dict) -> None:
            told.append(frame)
            if len(told) == 1:
                server.publish(make_message())
                raise OSError("the inbox is away")

        client = PushClient(server.url, server.token, cursor="foreign", on_gap=read_inbox, random_=_AtOnce())
        async with client:
            with pytest.raises(OSError, match="away"):
                await next_op(client, "welcome")
            assert client.cursor == "foreign"
            welcome = await next_op(client, "welcome")
            assert [frame["missing"] for frame in told] == ["inbox", "inbox"]
            assert client.cursor == welcome["cursor"] != "foreign"


async def test_what_moves_the_cursor_waits_behind_what_it_covers():
    async with running_push_server(ws_heartbeat_s=0.2) as server:
        client = PushClient(server.url, server.token, acks_itself=False, random_=_AtOnce())
        async with client:
            welcome = await next_op(client, "welcome")
            client.ack(new_id())
            message = make_message()
            server.publish(message)
            assert await client.confirm(5)
            assert client.cursor == welcome["cursor"]
            assert (await next_message(client))["UUID"] == message.id
            assert (await next_op(client, "pos"))["cursor"] == client.cursor != welcome["cursor"]
