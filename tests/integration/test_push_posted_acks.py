"""`POST /v1/ack`: acks without a connection of their own, confirmed when they are durable."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.fixtures.push import PushServer, make_message, running_push_server
from tests.fixtures.sse import open_events
from tests.fixtures.waiting import eventually


async def post(server: PushServer, body: Any, user: str = "alice", **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {server.token(user)}", "Content-Type": "application/json", **headers}
    async with server.session.post(f"{server.base}/v1/ack", data=data, headers=sent) as answer:
        if answer.status != 200:
            assert answer.content_type == "application/problem+json"
        return answer.status, await answer.json()


async def test_a_posted_ack_is_confirmed_once_the_event_is_durable():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        await stream.frame()
        message = make_message()
        server.publish(message)
        await stream.frame()
        server.events.gate.clear()
        posting = asyncio.create_task(post(server, {"ack": [message.id]}))
        await eventually(lambda: server.hub.unconfirmed_acks == 1)
        assert not posting.done()
        server.events.gate.set()
        assert await posting == (200, {"ok": {"ack": [message.id]}, "refused": []})
        [event] = server.events.written
        assert (event.id, event.user, event.stage, event.digest) == (
            message.id, "alice", "acked", message.digest
        )  # fmt: skip


async def test_all_three_marks_go_together_and_repeats_are_confirmed_too():
    async with running_push_server() as server:
        ids = [make_message().id for _ in range(3)]
        body = {"ack": ids, "seen": ids[:2], "read": ids[:1], "later": "ignored"}
        wanted = {"ack": ids, "seen": ids[:2], "read": ids[:1]}
        for _ in range(2):
            status, answer = await post(server, body)
            assert (status, answer["ok"]) == (200, wanted)
        stages = sorted(event.stage for event in server.events.written)
        assert stages == sorted(["acked"] * 6 + ["seen"] * 4 + ["read"] * 2)


async def test_what_can_never_be_acknowledged_is_refused_and_the_rest_confirmed():
    async with running_push_server() as server:
        async with open_events(server.base, server.token("bob")) as stream:
            await stream.frame()
            of_bob = make_message("bob")
            server.publish(of_bob)
            await stream.frame()
        good = make_message().id
        status, answer = await post(server, {"ack": [good, "nonsense", of_bob.id]})
        assert (status, answer["ok"]) == (200, {"ack": [good]})
        assert answer["refused"] == ["nonsense", of_bob.id]
        # All of it refused is an answer too: the client is to forget them.
        nothing = {"ok": {"read": []}, "refused": ["nonsense"]}
        assert await post(server, {"read": ["nonsense"]}) == (200, nothing)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ([], [""]),
        ("text", [""]),
        ({}, [""]),
        ({"ack": "one"}, ["/ack"]),
        ({"ack": []}, ["/ack"]),
        ({"ack": ["x"] * 501}, ["/ack"]),
        ({"ack": ["a", 1, None, "b" * 65], "read": {}}, ["/ack/1", "/ack/2", "/ack/3", "/read"]),
        ({"seen": [["a"]] * 100}, [f"/seen/{n}" for n in range(20)]),
    ],
)
async def test_a_wrong_body_is_told_by_pointers_and_nothing_of_it_counts(body, pointers):
    async with running_push_server() as server:
        status, answer = await post(server, body)
        assert (status, answer["code"]) == (400, "bad_body")
        assert [error["pointer"] for error in answer["errors"]] == pointers
        assert server.hub.unconfirmed_acks == 0
        assert server.events.written == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"ack": ["\xc3"]}'])
async def test_what_is_no_json_is_refused(body):
    async with running_push_server() as server:
        assert (await post(server, body))[0] == 400
        # The server goes on.
        assert (await post(server, {"ack": [make_message().id]}))[0] == 200


async def test_a_body_too_large_or_of_another_kind_is_refused():
    async with running_push_server() as server:
        assert (await post(server, b" " * 70_000))[0] == 413
        status, answer = await post(server, {"ack": ["x"]}, **{"Content-Type": "text/plain"})
        assert (status, answer["code"]) == (415, "media_type")


async def test_a_body_that_never_comes_ends_in_time(monkeypatch):
    monkeypatch.setattr("notifyd.push.acks._BODY_S", 0.2)
    async with running_push_server() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"POST /v1/ack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token()}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        async with asyncio.timeout(8):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_nobody_acknowledges_without_a_token():
    async with running_push_server() as server:
        async with server.session.post(f"{server.base}/v1/ack", json={"ack": ["x"]}) as answer:
            assert answer.status == 401
        assert server.events.written == []


async def test_while_the_broker_is_away_the_client_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr("notifyd.push.acks._CONFIRM_S", 0.3)
    async with running_push_server() as server:
        server.events.gate.clear()
        for _ in range(3):
            headers = {"Authorization": f"Bearer {server.token()}"}
            body = {"ack": [make_message().id for _ in range(400)]}
            async with server.session.post(f"{server.base}/v1/ack", json=body, headers=headers) as answer:
                assert answer.status == 503
                assert "Retry-After" in answer.headers
                assert (await answer.json())["code"] == "unconfirmed"
        # Only what was on its way to the broker already is still held.
        assert server.hub.unconfirmed_acks == 400
        server.events.gate.set()
        await eventually(lambda: server.hub.unconfirmed_acks == 0)
        assert (await post(server, body))[0] == 200


async def test_one_user_cannot_fill_the_waiting_room():
    async with running_push_server() as server:
        server.events.gate.clear()
        body = {"ack": [make_message().id for _ in range(500)]}
        posts = [asyncio.create_task(post(server, body)) for _ in range(4)]
        await eventually(lambda: server.hub.unconfirmed_acks == 2000)
        status, answer = await post(server, body)
        assert (status, answer["code"]) == (429, "too_many_acks")
        other = asyncio.create_task(post(server, body, user="bob"))
        await eventually(lambda: server.hub.unconfirmed_acks == 2500)
        server.events.gate.set()
        assert [status for status, _ in await asyncio.gather(*posts, other)] == [200] * 5
        assert (await post(server, body))[0] == 200


async def test_acks_that_cannot_be_stored_are_not_confirmed():
    async with running_push_server() as server:
        server.events.error = RuntimeError("no such topic")
        status, answer = await post(server, {"ack": [make_message().id]})
        assert (status, answer["code"]) == (503, "unconfirmed")
        server.events.error = None
        assert (await post(server, {"ack": [make_message().id]}))[0] == 200


async def test_a_client_that_leaves_before_the_answer_leaves_nothing_behind():
    async with running_push_server() as server:
        server.events.gate.clear()
        first = asyncio.create_task(post(server, {"ack": [make_message().id]}))
        await eventually(lambda: server.hub.unconfirmed_acks == 1)
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await post(server, {"ack": [make_message().id]})
        server.events.gate.set()
        assert (await first)[0] == 200
        await eventually(lambda: server.hub.unconfirmed_acks == 0)


async def test_acks_are_taken_until_the_window_of_a_drain_is_over():
    async with running_push_server() as server:
        server.events.gate.clear()
        posting = asyncio.create_task(post(server, {"ack": [make_message().id]}))
        await eventually(lambda: server.hub.unconfirmed_acks == 1)
        # Who has a stream here makes the window last.
        headers = {"Authorization": f"Bearer {server.token('alice')}"}
        async with server.session.get(f"{server.base}/v1/push/sse", headers=headers) as stream:
            draining = asyncio.create_task(server.hub.drain(0.5))
            await eventually(lambda: server.hub.is_draining)
            late = asyncio.create_task(post(server, {"ack": [make_message().id]}))
            await eventually(lambda: server.hub.unconfirmed_acks == 2)
            await stream.read()
        status, answer = await post(server, {"ack": [make_message().id]})
        assert (status, answer["code"]) == (503, "going_away")
        server.events.gate.set()
        assert [(await one)[0] for one in (posting, late)] == [200, 200]
        await draining
