"""Push over real sockets: hello, welcome, messages, who is let in and who is not."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from notifyd.push.cursor import decode_cursor
from tests.fixtures.push import closed_with, make_message, next_frame, next_frames, running_push_server
from tests.fixtures.waiting import eventually


async def test_a_message_reaches_every_device_of_its_user():
    async with running_push_server() as server:
        phone, laptop = await server.hello(), await server.hello()
        message = make_message("alice", title="On its way")
        assert server.publish(message) == 2
        for ws in (phone, laptop):
            frame = await next_frame(ws)
            assert (frame["op"], frame["at"]) == ("msg", "3:0")
            assert frame["message"]["UUID"] == message.id
            assert frame["message"]["content"]["title"] == "On its way"
        sent = await eventually(lambda: server.events.posted)
        assert [(e.user, e.stage, e.id, e.digest) for e in sent] == [
            ("alice", "sent", message.id, message.digest)
        ]


async def test_nobody_sees_recipients_contacts_or_messages_of_others():
    async with running_push_server() as server:
        alice, bob = await server.hello("alice"), await server.hello("bob")
        secret = {"alice": {"webhook": [{"url": "https://x.example/hook", "secret": "whsec_hidden"}]}}
        server.publish(make_message(["alice", "carol"], contacts=secret))
        server.publish(make_message("bob", title="For Bob"))
        text = json.dumps(await next_frames(alice))
        assert "carol" not in text
        assert "hidden" not in text
        assert "contacts" not in text
        assert "toUserIds" not in text
        frame = await next_frame(bob)
        assert frame["message"]["content"]["title"] == "For Bob"
        await alice.ping()
        with pytest.raises(TimeoutError):
            await alice.receive(timeout=0.1)


async def test_the_token_may_come_in_the_header():
    async with running_push_server() as server:
        ws = await server.connect(headers={"Authorization": f"Bearer {server.token('alice')}"})
        await ws.send_json({"op": "hello"})
        welcome = await next_frame(ws)
        assert welcome["op"] == "welcome"
        assert welcome["heartbeat"] == 25
        assert welcome["missing"] is None
        assert welcome["replayed"] == 0
        assert ws.protocol == "notifyd.v1"


async def test_a_client_that_was_here_before_is_told_that_it_may_have_missed_something():
    async with running_push_server() as server:
        server.publish(make_message("nobody"))
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": server.token(), "cursor": "anything", "at": ["3:1"]})
        welcome = await next_frame(ws)
        assert welcome["missing"] == "inbox"
        cursor = decode_cursor(welcome["cursor"])
        assert cursor is not None
        assert (cursor.incarnation, dict(cursor.offsets)) == ("inc-1", {3: 1})


async def test_content_is_cast_to_what_the_client_reads():
    async with running_push_server() as server:
        new, old = await server.hello(), await server.hello(content=["1.0"])
        server.publish(make_message(url="https://shop.example/1"))
        assert (await next_frame(new))["message"]["content"]["url"] == "https://shop.example/1"
        content = (await next_frame(old))["message"]["content"]
        assert "url" not in content
        assert content["version"] == 1.0


async def test_no_hello_in_time_closes_with_4408():
    async with running_push_server(ws_hello_timeout_s=0.2) as server:
        ws = await server.connect()
        code, frames = await closed_with(ws)
        assert code == 4408
        assert frames[0]["code"] == "no_hello"


@pytest.mark.parametrize(
    "token", ["", "nonsense", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."]
)
async def test_a_bad_token_closes_with_4401(token):
    async with running_push_server() as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": token})
        code, frames = await closed_with(ws)
        assert code == 4401
        assert frames[0]["code"] == "unauthorised"
        assert server.hub.connections == 0


async def test_a_browser_of_another_origin_closes_with_4403():
    async with running_push_server(ws_origins=("https://shop.example",)) as server:
        ws = await server.connect(origin="https://evil.example")
        code, frames = await closed_with(ws)
        assert code == 4403
        assert frames[0]["code"] == "origin_refused"
        ws = await server.connect(origin="https://shop.example")
        await ws.send_json({"op": "hello", "token": server.token()})
        assert (await next_frame(ws))["op"] == "welcome"


async def test_one_user_has_so_many_connections_and_no_more():
    async with running_push_server(ws_max_connections_per_user=2) as server:
        first, _second = await server.hello(), await server.hello()
        third = await server.connect()
        await third.send_json({"op": "hello", "token": server.token()})
        assert (await closed_with(third))[0] == 4429
        assert server.hub.connections == 2
        await first.close()
        await eventually(lambda: server.hub.connections == 1)
        await server.hello()


async def test_what_is_due_together_comes_as_one_array_in_order():
    async with running_push_server() as server:
        ws = await server.hello()
        messages = [make_message(title=f"{n}") for n in range(5)]
        for message in messages:
            server.publish(message)
        frames = await next_frames(ws)
        assert [frame["message"]["UUID"] for frame in frames] == [message.id for message in messages]
        assert [frame["at"] for frame in frames] == [f"3:{n}" for n in range(5)]


async def test_heartbeats_say_how_far_the_connection_has_got():
    async with running_push_server(ws_heartbeat_s=0.3) as server:
        ws = await server.hello()
        server.publish(make_message("somebody-else"))
        pos = await next_frame(ws)
        assert pos["op"] == "pos"
        cursor = decode_cursor(pos["cursor"])
        assert cursor is not None
        assert dict(cursor.offsets) == {3: 1}
        assert (await next_frame(ws))["op"] == "pos"


async def test_a_token_that_ends_ends_the_connection_with_a_drain_first():
    async with running_push_server(ws_heartbeat_s=1) as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": server.token(ttl_s=2)})
        code, frames = await closed_with(ws)
        ops = [frame["op"] for frame in frames]
        assert ops.index("welcome") < ops.index("drain")
        assert code == 4001


async def test_until_the_window_of_a_drain_is_over_nobody_is_closed_and_messages_come():
    async with running_push_server() as server:
        clients = [await server.hello(f"user-{n}") for n in range(20)]
        draining = asyncio.create_task(server.hub.drain(2.0))
        for ws in clients:
            assert await next_frame(ws) == {"op": "drain", "after": [0, 1500]}
        told = time.monotonic()
        server.publish(make_message([f"user-{n}" for n in range(20)]))
        for ws in clients:
            assert (await next_frame(ws))["op"] == "msg"

        async def closed_at(ws: aiohttp.ClientWebSocketResponse) -> float:
            assert await closed_with(ws) == (1001, [])
            return time.monotonic() - told

        # It may be late on a busy machine, but never early.
        assert min(await asyncio.gather(*map(closed_at, clients))) > 1.4
        await draining


async def test_drain_tells_everyone_and_is_over_within_its_window():
    async with running_push_server() as server:
        clients = [await server.hello(f"user-{n}") for n in range(20)]
        readers = [asyncio.create_task(closed_with(ws)) for ws in clients]
        started = time.monotonic()
        await server.hub.drain(0.8)
        assert server.hub.sockets == 0
        assert time.monotonic() - started < 5
        for code, frames in await asyncio.gather(*readers):
            assert code == 1001
            assert frames[-1] == {"op": "drain", "after": [0, 600]}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await server.connect()
        assert refused.value.status == 503
