"""The client by which webhooks are posted: its connections, its look-ups, what it refuses to send."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from notifyd.channels import http_client
from notifyd.channels.addresses import GuardedResolver, Lookup
from notifyd.channels.http_client import HttpClient
from notifyd.channels.http_faults import ConnectFailed, Disconnected, NameFailed
from notifyd.channels.http_message import Reply, Request
from tests.fixtures.waiting import eventually
from tests.integration.webhook_peers import names, raw_server, read_request, receiver

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def client(lookup: Lookup | None = None, *, limit: int = 10) -> AsyncIterator[HttpClient]:
    resolver = GuardedResolver(lookup or names({}), allow_private=True)
    made = HttpClient(resolver, allow_private=True, limit=limit, names_s=30)
    try:
        yield made
    finally:
        made.close()


async def post(made: HttpClient, url: str, *, keep: bool = True, **headers: str) -> Reply:
    deadline = asyncio.get_running_loop().time() + 5
    return await made.post(Request(URL(url), headers, b"{}"), deadline, keep=keep)


@pytest.mark.parametrize("value", ["a\nEvil: 1", "a\rEvil: 1", "a\r\n\r\nPOST /", "a\0b", "ü"])
async def test_a_header_that_is_more_than_one_line_of_ascii_is_never_sent(value: str) -> None:
    async with receiver() as peer, client() as made:
        with pytest.raises(ValueError, match=r"line break|ascii"):
            await post(made, peer.url, topic=value)
    assert peer.calls == []


async def test_one_look_up_serves_all_who_wait_for_it_and_its_answer_is_remembered() -> None:
    asked = 0
    answer = asyncio.Event()

    async def slow(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        nonlocal asked
        asked += 1
        await answer.wait()
        return [(socket.AF_INET, "127.0.0.1")]

    async with receiver() as peer, client(slow) as made:
        url = peer.url.replace("127.0.0.1", "slow.test")
        calls = [asyncio.create_task(post(made, url)) for _ in range(5)]
        await eventually(lambda: asked > 0, timeout_s=5)
        calls[0].cancel()  # the others still get theirs
        answer.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes[1:] == [Reply(200)] * 4
        assert await post(made, url) == Reply(200)
    assert asked == 1


async def test_a_failed_look_up_is_not_remembered() -> None:
    answers: list[list[tuple[socket.AddressFamily, str]]] = [[], [(socket.AF_INET, "127.0.0.1")]]

    async def later(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        return answers.pop(0)

    async with receiver() as peer, client(later) as made:
        url = peer.url.replace("127.0.0.1", "new.test")
        with pytest.raises(NameFailed):
            await post(made, url)
        assert await post(made, url) == Reply(200)


async def test_another_address_of_a_name_is_tried_where_one_refuses() -> None:
    async def both(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        return [(socket.AF_INET, "127.0.0.3"), (socket.AF_INET, "127.0.0.2")]

    async with receiver(host="127.0.0.2") as peer, client(both) as made:
        for _ in range(3):
            url = f"http://both.test:{peer.port}/"
            assert await post(made, url, keep=False) == Reply(200)
    assert len(peer.calls) == 3


async def test_a_connection_that_was_idle_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEPALIVE_S", 0.1)
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await reader.read()
        closed.set()

    async with raw_server(serve) as url, client() as made:
        assert await post(made, url) == Reply(200)
        await asyncio.wait_for(closed.wait(), 5)


async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_call() -> None:
    served = 0

    async def talks_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await read_request(reader)
        writer.write(OK if served > 1 else OK + OK.replace(b"200", b"410"))
        await reader.read()

    async with raw_server(talks_on) as url, client() as made:
        assert [await post(made, url) for _ in range(2)] == [Reply(200), Reply(200)]
    assert served == 2


async def test_an_interim_answer_is_passed_over() -> None:
    async def hints(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(OK.replace(b"200", b"202"))
        await reader.read()

    async with raw_server(hints) as url, client() as made:
        assert await post(made, url) == Reply(202)


async def test_a_body_in_pieces_leaves_its_connection_usable_and_one_up_to_the_end_does_not() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await read_request(reader)
            for part in (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"2\r\nok\r\n",
                b"0\r\n\r\n",
            ):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    async with raw_server(serve) as url, client() as made:
        for _ in range(4):
            assert await post(made, url) == Reply(200)
    assert connections == 2


async def test_no_more_calls_than_the_limit_are_under_way() -> None:
    async with receiver() as peer, client(limit=3) as made:
        peer.delay_s = 0.02
        await asyncio.gather(*(post(made, peer.url) for _ in range(12)))
    assert peer.most_at_once <= 3
    assert len(peer.calls) == 12


async def test_a_closed_client_calls_nobody() -> None:
    async with receiver() as peer, client() as made:
        await post(made, peer.url)
        made.close()
        with pytest.raises((Disconnected, ConnectFailed)):
            await post(made, peer.url)
    assert len(peer.calls) == 1
