"""Server-sent events over real sockets: the same objects and guarantees as a WebSocket has."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack

import pytest

from notifyd.push.cursor import decode_cursor
from notifyd.push.protocol import CloseCode
from tests.fixtures.push import make_message, next_frame, running_push_server
from tests.fixtures.sse import EventReader, open_events
from tests.fixtures.waiting import eventually

SHOP = "https://shop.example"


async def test_a_message_reaches_streams_and_sockets_of_its_user_alike():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        welcome = await stream.next()
        assert welcome is not None
        assert welcome.frame["op"] == "welcome"
        assert welcome.id == welcome.frame["cursor"]
        ws = await server.hello()
        message = make_message(title="On its way")
        assert server.publish(message) == 2
        event = await stream.next()
        assert event is not None and event.id is None
        assert event.frame == await next_frame(ws)
        assert event.frame["message"]["UUID"] == message.id
        assert server.hub.connections == 2


async def test_the_answer_is_one_that_no_proxy_keeps_back():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert "no-store" in headers["Cache-Control"]
        assert headers["X-Accel-Buffering"] == "no"
        await stream.frame()
        assert stream.retry_ms is not None and 1000 <= stream.retry_ms <= 5000


async def test_a_line_break_in_a_message_breaks_no_event():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        await stream.frame()
        hostile = "one\n\ndata: two\r\nid: 3\r\u2028\u2029\x85 \x0b"
        server.publish(make_message(title=hostile))
        assert (await stream.frame())["message"]["content"]["title"] == hostile


async def test_heartbeats_carry_the_cursor_as_id_and_messages_none():
    async with (
        running_push_server(ws_heartbeat_s=0.3) as server,
        open_events(server.base, server.token()) as stream,
    ):
        await stream.frame()
        server.publish(make_message())
        frames = await stream.until("pos")
        assert [frame["op"] for frame in frames] == ["msg", "pos"]
        assert stream.last_id == frames[-1]["cursor"]
        cursor = decode_cursor(stream.last_id)
        assert cursor is not None and dict(cursor.offsets) == {3: 1}


async def test_a_client_that_comes_back_with_the_last_id_gets_what_it_missed():
    async with running_push_server() as server:
        server.hub.begin(3, 0)
        async with open_events(server.base, server.token()) as stream:
            cursor = (await stream.frame())["cursor"]
        missed = [make_message(title=f"{n}") for n in range(5)]
        for message in missed:
            server.publish(message)
        ids = [message.id for message in missed]
        # A browser repeats the URL of its first time: what it says in the header is newer.
        again = open_events(server.base, server.token(), headers={"Last-Event-ID": cursor}, cursor="old")
        async with again as stream:
            frames = await stream.until("welcome")
            assert [frame["message"]["UUID"] for frame in frames[:-1]] == ids
            assert (frames[-1]["replayed"], frames[-1]["missing"]) == (5, None)
            at = frames[2]["at"]
        async with open_events(server.base, server.token(), cursor=cursor, at=[at]) as stream:
            frames = await stream.until("welcome")
            assert [frame["message"]["UUID"] for frame in frames[:-1]] == ids[3:]


async def test_content_is_cast_and_acks_are_declined_by_the_query():
    async with (
        running_push_server() as server,
        open_events(server.base, server.token(), content=["1.0"], ack="false") as stream,
    ):
        await stream.frame()
        server.publish(make_message(url="https://shop.example/1"))
        content = (await stream.frame())["message"]["content"]
        assert content["version"] == 1.0
        assert "url" not in content
        [sent] = await eventually(lambda: server.events.posted)
        assert (sent.stage, sent.detail) == ("sent", "no_acks")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"ack": "perhaps"}, "ack"),
        ({"content": ["x" * 40]}, "content"),
        ({"content": ["1"] * 9}, "content"),
        ({"cursor": "1" + "a" * 7500, "at": ["x" * 33]}, "at"),
    ],
)
async def test_a_wrong_query_is_told_by_name(query, parameter):
    async with running_push_server() as server:
        async with open_events(server.base, server.token(), **query) as stream:
            assert stream.response.status == 400
            assert stream.response.content_type == "application/problem+json"
            body = await stream.response.json()
            assert [error["parameter"] for error in body["errors"]] == [parameter]
        assert server.hub.sockets == 0


@pytest.mark.parametrize("token", ["nonsense", None])
async def test_who_is_not_known_gets_401_and_leaves_nothing_behind(token):
    async with running_push_server() as server:
        async with open_events(server.base, token) as stream:
            assert stream.response.status == 401
            assert stream.response.headers["WWW-Authenticate"] == "Bearer"
            body = await stream.response.json()
            assert (body["status"], body["code"]) == (401, "unauthorised")
            assert "nonsense" not in json.dumps(body)
        assert server.hub.sockets == 0


async def test_pages_of_listed_origins_may_read_it_and_others_may_not():
    async with running_push_server(ws_origins=(SHOP,)) as server:
        async with open_events(server.base, server.token(), headers={"Origin": SHOP}) as stream:
            assert stream.response.headers["Access-Control-Allow-Origin"] == SHOP
            assert stream.response.headers["Vary"] == "Origin"
            assert (await stream.frame())["op"] == "welcome"
        other = {"Origin": "https://evil.example"}
        async with open_events(server.base, server.token(), headers=other) as stream:
            assert stream.response.status == 403
            assert "Access-Control-Allow-Origin" not in stream.response.headers
        # What is refused to a listed page is readable there, so that it can tell why.
        async with open_events(server.base, "wrong", headers={"Origin": SHOP}) as stream:
            assert stream.response.status == 401
            assert stream.response.headers["Access-Control-Allow-Origin"] == SHOP


@pytest.mark.parametrize("path", ["/v1/push/sse", "/v1/push/ticket", "/v1/ack"])
async def test_a_preflight_is_answered_for_listed_origins_alone(path):
    async with running_push_server(ws_origins=(SHOP,)) as server:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        async with server.session.options(server.base + path, headers={"Origin": SHOP, **asked}) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == SHOP
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        evil = {"Origin": "https://evil.example", **asked}
        async with server.session.options(server.base + path, headers=evil) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_streams_and_sockets_of_a_user_are_counted_together():
    async with running_push_server(ws_max_connections_per_user=2) as server:
        ws = await server.hello()
        async with open_events(server.base, server.token()) as stream:
            await stream.frame()
            async with open_events(server.base, server.token()) as third:
                assert third.response.status == 429
                assert "Retry-After" in third.response.headers
                assert (await third.response.json())["code"] == "too_many_connections"
        await eventually(lambda: server.hub.sockets == 1)
        async with open_events(server.base, server.token()) as stream:
            assert (await stream.frame())["op"] == "welcome"
        await ws.close()


async def test_a_client_that_leaves_is_forgotten():
    async with running_push_server() as server:
        async with open_events(server.base, server.token()) as stream:
            await stream.frame()
            assert server.hub.connections == 1
        await eventually(lambda: server.hub.sockets == 0)
        assert server.publish(make_message()) == 0


async def test_who_talks_behind_its_request_is_cut():
    async with running_push_server() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /v1/push/sse HTTP/1.1\r\nHost: x\r\n{bearer(server)}\r\n\r\n".encode())
        async with asyncio.timeout(8):
            await reader.readuntil(b"\n\n")
            await eventually(lambda: server.hub.connections == 1)
            writer.write(b"GET /v1/push/sse HTTP/1.1\r\n")
            await eventually(lambda: server.hub.sockets == 0)
        writer.close()


async def test_a_slow_reader_is_cut_at_the_bound_and_others_get_everything():
    # Above what the kernels of both sides may hold.
    async with running_push_server(ws_max_unsent_bytes=128 * 1024) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(f"GET /v1/push/sse HTTP/1.1\r\nHost: x\r\n{bearer(server)}\r\n\r\n".encode())
        async with open_events(server.base, server.token()) as stream:
            await stream.frame()
            await eventually(lambda: server.hub.connections == 2)
            sent = 0
            while server.metric("notifyd_ws_evictions_total") == 0:
                server.publish(make_message(body="x" * 60_000))
                sent += 1
                assert (await stream.frame())["op"] == "msg"
                assert sent < 500
            assert server.hub.connections == 1
            server.publish(make_message(title="last"))
            assert (await stream.frame())["message"]["content"]["title"] == "last"
        slow.close()


async def test_a_replay_waits_for_its_reader_and_loses_nothing():
    async with running_push_server(ws_max_unsent_bytes=64 * 1024) as server:
        server.hub.begin(3, 0)
        async with open_events(server.base, server.token()) as stream:
            cursor = (await stream.frame())["cursor"]
        await eventually(lambda: server.hub.sockets == 0)
        messages = [make_message(body="x" * 20_000) for _ in range(300)]
        for message in messages:
            server.publish(message)
        async with open_events(server.base, server.token(), cursor=cursor) as stream:
            # 6 MB, far above the bound, while the client has not begun to read.
            frames = await stream.until("welcome", 30)
            assert [frame["message"]["UUID"] for frame in frames[:-1]] == [m.id for m in messages]
            assert frames[-1]["missing"] is None
        assert server.metric("notifyd_ws_evictions_total") == 0


async def test_a_token_that_ends_ends_the_stream_with_a_drain_first():
    async with (
        running_push_server(ws_heartbeat_s=1) as server,
        open_events(server.base, server.token(ttl_s=2)) as stream,
    ):
        assert [f["op"] for f in await stream.rest() if f["op"] != "pos"] == ["welcome", "drain"]


async def test_drain_tells_streams_to_go_and_lets_nobody_in():
    async with running_push_server() as server, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(open_events(server.base, server.token(f"user-{n}")))
            for n in range(10)
        ]
        readers = [asyncio.create_task(stream.rest()) for stream in streams]
        await eventually(lambda: server.hub.connections == 10)
        draining = asyncio.create_task(server.hub.drain(0.8))
        for frames in await asyncio.gather(*readers):
            assert frames[-1] == {"op": "drain", "after": [0, 600]}
        await draining
        assert server.hub.sockets == 0
        async with open_events(server.base, server.token()) as stream:
            assert stream.response.status == 503
            assert "Retry-After" in stream.response.headers


async def test_an_error_in_the_stream_names_the_close_code_that_a_socket_would_get():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        await stream.frame()
        [peer] = server.hub._members.of("alice")
        peer.close(CloseCode.UNAUTHORISED, "these sessions were ended")
        [error] = await stream.rest()
        assert error == {
            "op": "error", "code": "unauthorised", "detail": "these sessions were ended", "close": 4401
        }  # fmt: skip
        await eventually(lambda: server.hub.sockets == 0)


async def get_ticket(server, token=None):
    headers = {"Authorization": f"Bearer {token or server.token()}"}
    async with server.session.post(f"{server.base}/v1/push/ticket", headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_ticket_opens_one_stream_of_its_user_and_no_second():
    async with running_push_server() as server:
        status, body = await get_ticket(server, server.token("bob"))
        assert (status, body["expires_in_s"]) == (200, 30)
        async with open_events(server.base, ticket=body["ticket"]) as stream:
            await stream.frame()
            server.publish(make_message("bob"))
            assert (await stream.frame())["op"] == "msg"
            async with open_events(server.base, ticket=body["ticket"]) as again:
                assert again.response.status == 401
                assert body["ticket"] not in await again.response.text()


async def test_a_ticket_is_no_token_and_a_token_no_ticket():
    async with running_push_server() as server:
        _, body = await get_ticket(server)
        assert (await get_ticket(server, body["ticket"]))[0] == 401
        async with open_events(server.base, body["ticket"]) as stream:
            assert stream.response.status == 401
        async with open_events(server.base, ticket=server.token()) as stream:
            assert stream.response.status == 401


async def test_a_ticket_of_one_process_serves_at_another():
    async with running_push_server() as one, running_push_server() as other:
        _, body = await get_ticket(one)
        async with open_events(other.base, ticket=body["ticket"]) as stream:
            assert (await stream.frame())["op"] == "welcome"


async def test_a_stream_opened_by_a_ticket_ends_with_the_token_behind_it():
    async with running_push_server(ws_heartbeat_s=1) as server:
        _, body = await get_ticket(server, server.token(ttl_s=2))
        async with open_events(server.base, ticket=body["ticket"]) as stream:
            assert [f["op"] for f in await stream.rest() if f["op"] != "pos"] == ["welcome", "drain"]


def bearer(server) -> str:
    return f"Authorization: Bearer {server.token()}"


async def test_streams_share_one_http_server_with_everything_else():
    async with running_push_server() as server, open_events(server.base, server.token()) as stream:
        assert isinstance(stream, EventReader)
        await stream.frame()
        async with server.session.get(f"{server.base}/v1/push/sse") as answer:
            assert answer.status == 401
        # The same connection, kept alive by the client, serves one request after the other.
        async with server.session.get(f"{server.base}/v1/push") as answer:
            assert answer.status == 426
