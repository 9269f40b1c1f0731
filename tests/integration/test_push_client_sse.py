"""`PushClient` over server-sent events: what it promises over a WebSocket holds here too."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from notifyd.client import PushClient, PushClosed
from notifyd.message.envelope import new_id
from notifyd.push.protocol import CloseCode
from tests.fixtures.processes import NOTIFYD, clean_environment
from tests.fixtures.push import SECRET, PushServer, make_message, running_push_server
from tests.fixtures.roles import surroundings
from tests.fixtures.waiting import eventually
from tests.integration.test_push_client import _AtOnce, next_message, next_op
from tests.integration.test_push_resume import ws_pod
from tests.integration.test_push_signals import devices


def listen(*servers: PushServer, **more) -> PushClient:
    more.setdefault("token", servers[0].token)
    return PushClient([f"{server.base}/v1/push/sse" for server in servers], random_=_AtOnce(), **more)


async def test_messages_come_once_and_are_acked_until_confirmed():
    async with running_push_server() as server:
        async with listen(server) as client:
            await next_op(client, "welcome")
            message = make_message()
            server.publish(message)
            server.publish(message)
            assert (await next_message(client))["UUID"] == message.id
            assert (await next_op(client, "ok"))["ack"] == [message.id]
            assert client.unconfirmed == 0
        assert {(event.id, event.stage) for event in server.events.written} == {(message.id, "acked")}


async def test_leaving_the_block_confirms_the_last_message():
    async with running_push_server() as server:
        async with listen(server) as client:
            await next_op(client, "welcome")
            server.publish(make_message())
            await next_message(client)
        assert [event.stage for event in server.events.written] == ["acked"]
        await eventually(lambda: server.hub.sockets == 0)


async def test_without_acks_the_server_knows_that_sent_is_the_end():
    async with running_push_server() as server:
        async with listen(server, acks=False) as client:
            await next_op(client, "welcome")
            server.publish(make_message())
            await next_message(client)
        assert server.events.written == []
        assert [event.detail for event in server.events.posted] == ["no_acks"]


async def test_a_connection_that_is_lost_misses_nothing():
    async with running_push_server() as server:
        server.hub.begin(3, 0)
        async with listen(server) as client:
            await next_op(client, "welcome")
            for _ in range(5):
                [peer] = await eventually(lambda: server.hub._members.of("alice"))
                messages = [make_message(), make_message()]
                server.publish(messages[0])
                # Lost before it was written; the other comes while nobody is there, or just again.
                peer.abort()
                server.publish(messages[1])
                got = {(await next_message(client))["UUID"] for _ in range(2)}
                assert got == {message.id for message in messages}


async def test_acks_that_the_broker_does_not_take_are_posted_again(monkeypatch):
    monkeypatch.setattr("notifyd.push.acks._CONFIRM_S", 0.2)
    async with running_push_server() as server, listen(server, acks_itself=False) as client:
        await next_op(client, "welcome")
        server.events.gate.clear()
        message_id = new_id()
        client.mark("read", message_id)
        await eventually(lambda: server.hub.unconfirmed_acks == 1)
        assert not await client.confirm(0.5)
        server.events.gate.set()
        assert (await next_op(client, "ok"))["read"] == [message_id]


async def test_a_drain_moves_the_client_to_another_server():
    async with running_push_server() as old, running_push_server() as new, listen(old, new) as client:
        await next_op(client, "welcome")
        draining = asyncio.create_task(old.hub.drain(5))
        await next_op(client, "drain")
        await next_op(client, "welcome")
        assert new.hub.connections == 1
        await draining


async def test_what_is_final_raises_before_and_within_a_stream():
    async with running_push_server() as server:
        async with listen(server, token="nonsense") as client:
            with pytest.raises(PushClosed) as refused:
                await next_op(client, "welcome")
        assert (refused.value.code, refused.value.reason) == (4401, "unauthorised")
        async with listen(server) as client:
            await next_op(client, "welcome")
            server.hub._members.of("alice")[0].close(CloseCode.TOO_MANY_CONNECTIONS, "one too many")
            with pytest.raises(PushClosed, match="one too many") as closed:
                await next_op(client, "pos")
        assert closed.value.code == 4429


async def test_an_end_that_is_not_final_brings_the_client_back():
    async with running_push_server() as server, listen(server) as client:
        await next_op(client, "welcome")
        server.hub._members.of("alice")[0].close(CloseCode.INTERNAL, "a fault")
        await next_op(client, "error")
        await next_op(client, "welcome")


async def test_a_message_as_large_as_they_come_is_read():
    async with running_push_server() as server, listen(server) as client:
        await next_op(client, "welcome")
        server.publish(make_message(body="x" * 250_000))
        assert len((await next_message(client))["content"]["body"]) == 250_000


async def test_listen_by_server_sent_events_as_it_is_installed(tmp_path):
    async with running_push_server() as server:
        process = await asyncio.create_subprocess_exec(
            NOTIFYD, "listen", "--sse", "--user", "alice", "--json", "--count", "1",
            cwd=tmp_path,
            env=clean_environment({"NOTIFYD_JWT_SECRET": SECRET, "NOTIFYD_HTTP_PORT": str(server.port)}),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await eventually(lambda: server.hub.connections == 1)
        message = make_message()
        server.publish(message)
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        frames = [json.loads(line) for line in out.decode().splitlines()]
        assert [frame["op"] for frame in frames] == ["welcome", "msg"]
        assert process.returncode == 0
        assert [(event.id, event.stage) for event in server.events.written] == [(message.id, "acked")]


async def test_devices_of_both_kinds_learn_what_the_other_read_and_not_what_they_did(settings):
    async with surroundings(settings) as around, ws_pod(around.context) as pod:
        by_events = SimpleNamespace(url=pod.url.replace("ws:", "http:") + "/sse")
        async with devices(around, pod, by_events) as (phone, behind_proxy):
            ids = [new_id() for _ in range(2)]
            behind_proxy.client.mark("read", ids[0])
            await eventually(lambda: phone.states, what="the state of what the other read")
            phone.client.mark("read", ids[1])
            await eventually(lambda: behind_proxy.states, what="the state by server-sent events")
            assert [frame["ids"] for frame in phone.states] == [[ids[0]]]
            assert [frame["ids"] for frame in behind_proxy.states] == [[ids[1]]]
