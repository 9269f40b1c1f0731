"""Webhooks to receivers that fail, hang, flood or lead astray."""

import asyncio
import socket

import pytest

from notifyd.channels import addresses
from notifyd.channels.gate import DOWN_AFTER
from notifyd.channels.webhook import WebhookChannel
from notifyd.delivery.outcome import Dead, Done, Retry
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from tests.fixtures.waiting import eventually
from tests.integration.webhook_peers import (
    Connection,
    channel,
    contact,
    delivery,
    names,
    raw_server,
    read_request,
    receiver,
    reset,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await asyncio.Event().wait()


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    for byte in OK:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)


async def continue_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("peer", [hang, slow_head, continue_for_ever])
async def test_no_answer_in_time_is_retried(peer: Connection) -> None:
    async with raw_server(peer) as url, channel(timeout_s=0.3) as webhook:
        assert await webhook.send(delivery(), contact(url)) == Retry(
            "timeout", detail="no answer within 0.3 s"
        )


async def test_who_finds_all_calls_taken_by_others_that_hang_has_not_failed_and_has_lost_no_attempt() -> None:
    settings = Settings(
        webhook_allow_private=True, webhook_timeout_s=5, deliver_concurrency=2, deliver_aside=0
    )
    webhook = WebhookChannel(settings, Metrics())
    await webhook.start()
    async with raw_server(hang) as url, receiver() as peer:
        hanging = asyncio.create_task(webhook.send(delivery(), contact(url, url + "?second")))
        await eventually(webhook._http._client._slots.locked, what="all calls to be taken")
        for _ in range(DOWN_AFTER // 4 + 1):
            others = [webhook.send(delivery(), contact(peer.url)) for _ in range(4)]
            for outcome in await asyncio.wait_for(asyncio.gather(*others), 4):
                assert isinstance(outcome, Retry)
                assert (outcome.reason, outcome.counts) == ("no_sockets", False)
        hanging.cancel()
        await asyncio.wait({hanging})
        assert await webhook.send(delivery(), contact(peer.url)) == Done("HTTP 200")
    await webhook.stop()


async def endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def lost_in_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


@pytest.mark.parametrize("peer", [endless_body, slow_body, lost_in_body])
async def test_the_status_is_the_answer_whatever_the_body_does(peer: Connection) -> None:
    async with raw_server(peer) as url, channel(timeout_s=60) as webhook:
        sent = asyncio.create_task(webhook.send(delivery(), contact(url)))
        assert await asyncio.wait_for(sent, 10) == Done("HTTP 200")


async def answers_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await asyncio.Event().wait()


async def test_an_answer_before_the_body_was_read_counts() -> None:
    async with raw_server(answers_unread) as url, channel() as webhook:
        outcome = await webhook.send(delivery(body="x" * 200_000), contact(url))
    assert outcome == Dead("http_413", "HTTP 413")


async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_a_receiver_that_does_not_read_is_a_timeout() -> None:
    async with raw_server(never_reads) as url, channel(timeout_s=0.3) as webhook:
        outcome = await webhook.send(delivery(body="x" * 200_000), contact(url))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "timeout"


async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def cut_in_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK[:20])
    await writer.drain()


@pytest.mark.parametrize("peer", [drop, reset_at_once, cut_in_head])
async def test_a_connection_that_ends_without_an_answer_is_retried_and_called_once(peer: Connection) -> None:
    served = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await peer(reader, writer)

    async with raw_server(counted) as url, channel() as webhook:
        outcome = await webhook.send(delivery(), contact(url))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "connection_lost"
    assert served == 1


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"220 mail.example ESMTP ready\r\n\r\n")
    await writer.drain()


async def huge_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n")
    await writer.drain()


async def many_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000 + b"\r\n")
    await writer.drain()


@pytest.mark.parametrize("peer", [garbage, huge_head, many_headers])
async def test_what_is_not_http_is_retried(peer: Connection) -> None:
    async with raw_server(peer) as url, channel() as webhook:
        outcome = await webhook.send(delivery(), contact(url))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "bad_response"


async def test_nobody_listening_is_retried() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        async with channel() as webhook:
            assert await webhook.send(delivery(), contact(url)) == Retry(
                "connect_failed", detail="Connection refused"
            )


async def test_a_name_that_does_not_resolve_is_retried() -> None:
    async with channel(lookup=names({})) as webhook:
        outcome = await webhook.send(delivery(), contact("http://nowhere.test/"))
    assert outcome == Retry("dns_failed", detail="the host's name was not resolved")


async def test_a_resolver_that_never_answers_is_a_timeout() -> None:
    async def silent(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        await asyncio.Event().wait()
        raise AssertionError

    async with channel(lookup=silent, timeout_s=0.2) as webhook:
        outcome = await webhook.send(delivery(), contact("http://slow.test/"))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "timeout"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::]",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fd00:ec2::254]",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
    ],
)
async def test_a_closed_address_is_never_called_however_it_is_written(host: str) -> None:
    async with receiver(host="127.0.0.1") as peer, channel(allow_private=False) as webhook:
        outcome = await webhook.send(delivery(), contact(f"https://{host}:{peer.port}/"))
    assert isinstance(outcome, Dead)
    assert outcome.reason in ("address_refused", "bad_url")
    assert peer.calls == []
    assert "127" not in outcome.detail


@pytest.mark.parametrize("host", ["localhost.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1"])
async def test_the_odd_spellings_of_loopback_reach_nothing(host: str) -> None:
    async with receiver() as peer, channel(allow_private=False, timeout_s=5) as webhook:
        outcome = await webhook.send(delivery(), contact(f"https://{host}:{peer.port}/"))
    assert not isinstance(outcome, Done)
    assert peer.calls == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "2002:7f00:1::"],
)
async def test_a_name_that_leads_to_a_closed_address_is_dead(address: str) -> None:
    async with channel(allow_private=False, lookup=names({"inside.test": address})) as webhook:
        outcome = await webhook.send(delivery(), contact("https://inside.test/"))
    assert outcome == Dead("address_refused", "the host is at no public address")


async def test_a_name_that_changes_its_address_after_the_check_reaches_only_the_checked_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 127.0.0.1 plays the public address, 127.0.0.2 what the name turns to a moment later.
    monkeypatch.setattr(addresses, "is_open", lambda address: address == "127.0.0.1")
    monkeypatch.setattr("notifyd.channels.http_calls._DNS_CACHE_S", 0)
    answers = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
    asked = 0

    async def rebinding(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        nonlocal asked
        asked += 1
        return [(socket.AF_INET, answers[min(asked, 3) - 1])]

    async with (
        receiver(host="127.0.0.2") as inside,
        channel(allow_private=False, lookup=rebinding) as webhook,
    ):
        url = f"https://rebind.test:{inside.port}/"
        first = await webhook.send(delivery(), contact(url))
        assert asked == 1
        second = await webhook.send(delivery(), contact(url))
    assert isinstance(first, Retry)  # nobody listens on the checked address: it was that one that was called
    assert first.reason == "connect_failed"
    assert second == Dead("address_refused", "the host is at no public address")
    assert inside.calls == []


async def test_plain_http_needs_to_be_allowed() -> None:
    async with receiver() as peer, channel(allow_private=False) as webhook:
        outcome = await webhook.send(delivery(), contact(peer.url))
    assert outcome == Dead("https_required", "the URL is not https")
    assert peer.calls == []


async def test_a_host_that_hangs_does_not_hold_up_another() -> None:
    lookup = names({"hangs.test": "127.0.0.1"})
    async with (
        raw_server(hang) as url,
        receiver() as peer,
        channel(lookup=lookup, timeout_s=3, host_concurrency=4) as webhook,
    ):
        hung = url.replace("127.0.0.1", "hangs.test")
        stuck = [asyncio.create_task(webhook.send(delivery(), contact(hung))) for _ in range(12)]
        good = await asyncio.gather(*(webhook.send(delivery(), contact(peer.url)) for _ in range(30)))
        assert good == [Done("HTTP 200")] * 30
        outcomes = await asyncio.gather(*stuck)
        assert outcomes.count(Retry("timeout", detail="no answer within 3 s")) == 4
        busy = Retry("host_busy", detail="the host has too many calls under way", counts=False)
        assert outcomes.count(busy) == 8


async def test_a_delivery_that_waits_for_a_busy_host_has_called_none_of_its_others() -> None:
    lookup = names({"a-quick.test": "127.0.0.1", "hangs.test": "127.0.0.1"})
    async with (
        raw_server(hang) as url,
        receiver() as peer,
        channel(lookup=lookup, timeout_s=3, host_concurrency=1) as webhook,
    ):
        hung = url.replace("127.0.0.1", "hangs.test")
        quick = peer.url.replace("127.0.0.1", "a-quick.test")
        stuck = asyncio.create_task(webhook.send(delivery(), contact(hung)))
        await asyncio.sleep(0)
        outcome = await webhook.send(delivery(), contact(quick, hung))
        assert isinstance(outcome, Retry)
        assert outcome.reason == "host_busy"
        assert not outcome.counts
        assert peer.calls == []
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        assert await webhook.send(delivery(), contact(quick)) == Done("HTTP 200")


async def test_a_kept_connection_that_the_receiver_just_closed_costs_no_attempt() -> None:
    connections = 0

    async def closes_after_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
        # The race of keep-alive: the next request is on its way when the receiver closes.
        await read_request(reader)
        reset(writer)

    async with raw_server(closes_after_two) as url, channel() as webhook:
        for _ in range(7):
            assert await webhook.send(delivery(), contact(url)) == Done("HTTP 200")
    assert connections >= 3


async def test_a_cancelled_send_frees_its_place() -> None:
    async with raw_server(hang) as url, channel(host_concurrency=1, timeout_s=0.3) as webhook:
        first = asyncio.create_task(webhook.send(delivery(), contact(url)))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        outcome = await webhook.send(delivery(), contact(url))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "timeout"
