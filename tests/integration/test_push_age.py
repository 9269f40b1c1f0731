"""Connections do not grow old: after a while each is sent elsewhere, at a moment of its own."""

from __future__ import annotations

import asyncio

from tests.fixtures.push import closed_with, next_frame, running_push_server
from tests.fixtures.waiting import eventually


async def test_an_old_connection_is_told_to_go_and_closed_as_by_a_deploy():
    async with running_push_server(ws_max_age_s=1.0) as server:
        ws = await server.hello()
        code, frames = await closed_with(ws)
        assert code == 1001
        (drain,) = [frame for frame in frames if frame["op"] == "drain"]
        assert drain["after"][0] == 0
        assert 0 < drain["after"][1] <= 1100


async def test_those_that_came_together_do_not_go_together():
    async with running_push_server(ws_max_age_s=1000.0) as server:
        sockets = [await server.hello(f"user-{n}") for n in range(40)]
        ends = sorted(peer.expires_at_s - server.hub.now() for peer in server.hub._members.sockets)
        assert 890 < ends[0] < ends[-1] <= 1100
        assert ends[-1] - ends[0] > 50
        for ws in sockets:
            await ws.close()


async def test_a_token_that_ends_before_ends_the_connection_as_a_token():
    async with running_push_server(ws_max_age_s=1000.0) as server:
        ws = await server.connect()
        await ws.send_json({"op": "hello", "token": server.token(ttl_s=1.0)})
        assert (await closed_with(ws))[0] == 4001


async def test_without_a_limit_the_token_alone_counts():
    async with running_push_server(ws_max_age_s=0) as server:
        ws = await server.hello()
        (peer,) = server.hub._members.sockets
        assert 3500 < peer.expires_at_s - server.hub.now() < 3700
        assert not peer.ends_by_age
        await ws.close()


async def test_a_stream_of_events_ends_with_its_age_too():
    async with running_push_server(ws_max_age_s=1.0) as server:
        headers = {"Authorization": f"Bearer {server.token()}"}
        async with server.session.get(f"{server.base}/v1/push/sse", headers=headers) as stream:
            async with asyncio.timeout(8):
                text = await stream.text()
        assert '"op":"drain"' in text
        await eventually(lambda: server.hub.sockets == 0)


async def test_what_is_on_its_way_is_still_confirmed_while_the_window_runs():
    async with running_push_server(ws_max_age_s=1.0) as server:
        ws = await server.hello()
        assert (await next_frame(ws))["op"] == "drain"
        await ws.send_json({"op": "ack", "ids": ["x"]})
        assert (await next_frame(ws))["refused"] == ["x"]
        await ws.close()
