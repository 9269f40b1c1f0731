"""Acks over real sockets: confirmed when durable, never before, and harmless when hostile."""

from __future__ import annotations

import uuid

import pytest

from notifyd.errors import PermanentError
from notifyd.message.envelope import new_id
from tests.fixtures.push import closed_with, make_message, next_frame, running_push_server
from tests.fixtures.waiting import eventually


async def test_an_ack_is_confirmed_only_after_it_is_durable():
    async with running_push_server() as server:
        ws = await server.hello()
        message = make_message()
        server.publish(message)
        await next_frame(ws)
        server.events.gate.clear()
        await ws.send_json({"op": "ack", "ids": [message.id]})
        await eventually(lambda: server.events.attempts == 1)
        with pytest.raises(TimeoutError):
            await ws.receive(timeout=0.1)
        server.events.gate.set()
        assert await next_frame(ws) == {"op": "ok", "ack": [message.id]}
        [event] = server.events.written
        assert (event.id, event.user, event.stage, event.channel) == (message.id, "alice", "acked", "ws")
        assert (event.digest, event.day) == (message.digest, message.day.isoformat())


async def test_a_sink_that_fails_for_a_while_only_delays_the_confirmation():
    async with running_push_server() as server:
        ws = await server.hello()
        server.events.failures = 3
        message_id = new_id()
        await ws.send_json({"op": "ack", "ids": [message_id]})
        assert await next_frame(ws) == {"op": "ok", "ack": [message_id]}
        assert server.events.attempts == 4


async def test_acks_that_cannot_be_stored_close_the_connection_unconfirmed():
    async with running_push_server() as server:
        ws = await server.hello()
        server.events.error = PermanentError("not authorised", reason="not_authorised")
        await ws.send_json({"op": "ack", "ids": [new_id()]})
        code, frames = await closed_with(ws)
        assert code == 1011
        assert [frame["op"] for frame in frames] == ["error"]


async def test_an_ack_of_a_message_this_process_never_saw_counts_by_its_time_ordered_id():
    async with running_push_server() as server:
        ws = await server.hello()
        ours, foreign = new_id(), str(uuid.uuid4())
        await ws.send_json({"op": "ack", "ids": [ours, foreign, "nonsense", ours]})
        assert await next_frame(ws) == {"op": "ok", "ack": [ours], "refused": [foreign, "nonsense"]}
        [event] = server.events.written
        assert (event.id, event.digest) == (ours, "")


@pytest.mark.parametrize("first", ["ffffffff-ffff-7", "00000000-0000-7"])
async def test_a_time_ordered_id_of_an_impossible_day_is_refused(first):
    async with running_push_server() as server:
        ws = await server.hello()
        hostile = first + str(uuid.uuid4())[15:]
        await ws.send_json({"op": "ack", "ids": [hostile]})
        assert (await next_frame(ws))["refused"] == [hostile]
        assert server.events.written == []


async def test_nobody_acks_the_message_of_another():
    async with running_push_server() as server:
        alice, mallory = await server.hello("alice"), await server.hello("mallory")
        message = make_message("alice")
        server.publish(message)
        await next_frame(alice)
        await mallory.send_json({"op": "read", "ids": [message.id]})
        assert await next_frame(mallory) == {"op": "ok", "read": [], "refused": [message.id]}
        assert server.events.written == []


async def test_ten_thousand_ids_do_no_harm():
    async with running_push_server() as server:
        ws = await server.hello()
        await ws.send_json({"op": "ack", "ids": [new_id() for _ in range(10_000)]})
        assert (await closed_with(ws))[0] == 4413
        assert server.events.written == []
        assert server.hub.connections == 0


async def test_seen_and_read_are_confirmed_like_acks():
    async with running_push_server() as server:
        ws = await server.hello()
        message_id = new_id()
        for op in ("seen", "read"):
            await ws.send_json({"op": op, "ids": [message_id]})
            assert await next_frame(ws) == {"op": "ok", op: [message_id]}
        assert [event.stage for event in server.events.written] == ["seen", "read"]


async def test_one_who_acks_faster_than_can_be_stored_is_read_no_further_until_there_is_room():
    async with running_push_server() as server:
        ws = await server.hello()
        server.events.gate.clear()
        for _ in range(12):
            await ws.send_json({"op": "ack", "ids": [new_id() for _ in range(400)]})
        await eventually(lambda: server.hub.unconfirmed_acks > 2000)
        assert server.hub.unconfirmed_acks < 4800
        server.events.gate.set()
        confirmed = 0
        while confirmed < 4800:
            frames = await ws.receive_json(timeout=5)
            for frame in frames if isinstance(frames, list) else [frames]:
                confirmed += len(frame["ack"])
        assert confirmed == 4800
        assert server.hub.unconfirmed_acks == 0


async def test_acks_under_way_are_confirmed_before_a_drain_closes():
    async with running_push_server() as server:
        ws = await server.hello()
        server.events.failures = 2
        message_id = new_id()
        await ws.send_json({"op": "ack", "ids": [message_id]})
        await eventually(lambda: server.events.attempts >= 1)
        await server.hub.drain(0.3)
        code, frames = await closed_with(ws)
        assert code == 1001
        assert {"op": "ok", "ack": [message_id]} in frames
