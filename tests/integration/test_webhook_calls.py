"""Webhooks to receivers that behave: what they get, and what their answers mean."""

import asyncio
import base64
import email.utils
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from notifyd.channels import addresses
from notifyd.channels.port import Delivery
from notifyd.delivery.contact import Contact, WebhookAddress
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from tests.fixtures.waiting import eventually
from tests.integration.webhook_peers import certificates, channel, contact, delivery, names, receiver

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes or so!").decode()


async def test_a_receiver_can_verify_what_it_gets_and_gets_nothing_of_other_users() -> None:
    async with receiver() as peer, channel() as webhook:
        sent = delivery(data={"order": 7})
        assert await webhook.send(sent, contact(peer.url, secret=SECRET)) == Done("HTTP 200")
    (call,) = peer.calls
    value = Webhook(SECRET).verify(call.body, call.headers)
    assert value["user"] == "alice"
    assert value["message"]["UUID"] == sent.message.id
    assert value["message"]["content"] == {"version": 1.1, "title": "On its way", "data": {"order": 7}}
    assert b"somebody-else" not in call.body
    assert b"a@b.c" not in call.body
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["User-Agent"].startswith("notifyd/")
    assert "Cookie" not in call.headers


async def test_a_repeat_has_the_same_id_and_body_and_another_url_has_another_id() -> None:
    async with receiver() as peer, channel() as webhook:
        sent = delivery()
        both = contact(peer.url, peer.url + "?second", secret=SECRET)
        await webhook.send(sent, both)
        await webhook.send(delivery(message_id=sent.message.id, attempt=2), both)
    by_path: dict[str, set[tuple[str, bytes]]] = {}
    for call in peer.calls:
        by_path.setdefault(call.path, set()).add((call.headers["webhook-id"], call.body))
    assert len(peer.calls) == 4
    assert [len(seen) for seen in by_path.values()] == [1, 1]
    assert len({call.headers["webhook-id"] for call in peer.calls}) == 2


async def test_each_message_and_each_of_its_recipients_comes_as_itself() -> None:
    async with receiver() as peer, channel() as webhook:
        first, second = delivery(title="first"), delivery(title="second")
        for sent in (first, Delivery(first.message, "somebody-else", "webhook", "", 1), second, first):
            await webhook.send(sent, contact(peer.url))
    came = [(call.value["user"], call.value["message"]["content"]["title"]) for call in peer.calls]
    assert came == [("alice", "first"), ("somebody-else", "first"), ("alice", "second"), ("alice", "first")]


async def test_the_same_url_twice_is_called_once() -> None:
    async with receiver() as peer, channel() as webhook:
        assert await webhook.send(delivery(), contact(peer.url, peer.url)) == Done("HTTP 200")
    assert len(peer.calls) == 1


async def test_a_user_without_a_url_is_skipped() -> None:
    async with channel() as webhook:
        assert await webhook.send(delivery(), Contact(email=("a@b.c",))) == Skip("no_address")


async def test_unicode_arrives_whole() -> None:
    async with receiver() as peer, channel() as webhook:
        await webhook.send(delivery("ålice", title="Grüße 🚚"), contact(peer.url, secret=SECRET))
    value = Webhook(SECRET).verify(peer.calls[0].body, peer.calls[0].headers)
    assert value["user"] == "ålice"
    assert value["message"]["content"]["title"] == "Grüße 🚚"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Done("HTTP 200")),
        (204, Done("HTTP 204")),
        (400, Dead("http_400", "HTTP 400")),
        (401, Dead("http_401", "HTTP 401")),
        (408, Retry("http_408", detail="HTTP 408")),
        (410, Dead("gone", "HTTP 410", gone=(0,))),
        (413, Dead("http_413", "HTTP 413")),
        (425, Retry("http_425", detail="HTTP 425")),
        (429, Retry("http_429", detail="HTTP 429")),
        (500, Retry("http_500", detail="HTTP 500")),
        (503, Retry("http_503", detail="HTTP 503")),
    ],
)
async def test_an_answer_means_what_the_table_says(status: int, outcome: Outcome) -> None:
    async with receiver() as peer, channel() as webhook:
        peer.status = status
        assert await webhook.send(delivery(), contact(peer.url)) == outcome
    assert len(peer.calls) == 1


async def test_retry_after_in_seconds_and_as_a_date() -> None:
    async with receiver() as peer, channel() as webhook:
        peer.status = 429
        peer.headers = {"Retry-After": "42"}
        first = await webhook.send(delivery(), contact(peer.url))
        peer.headers = {"Retry-After": email.utils.formatdate(time.time() + 600, usegmt=True)}
        second = await webhook.send(delivery(), contact(peer.url))
    assert first == Retry("http_429", after_s=42, detail="HTTP 429")
    assert isinstance(second, Retry)
    assert second.after_s == pytest.approx(600, abs=60)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_dead_and_leads_nowhere(status: int) -> None:
    async with receiver() as peer, receiver() as elsewhere, channel() as webhook:
        peer.status = status
        peer.headers = {"Location": elsewhere.url}
        outcome = await webhook.send(delivery(), contact(peer.url))
    assert outcome == Dead("redirected", f"HTTP {status}: redirects are not followed")
    assert elsewhere.calls == []


async def test_of_several_urls_each_is_called_and_all_must_take_it() -> None:
    async with receiver() as good, receiver() as bad, channel() as webhook:
        bad.status = 503
        outcome = await webhook.send(delivery(), contact(good.url, bad.url))
        assert outcome == Retry("http_503", detail="webhook[0] HTTP 200; webhook[1] HTTP 503")
        bad.status = 200
        outcome = await webhook.send(delivery(), contact(good.url, bad.url))
    assert outcome == Done("webhook[0] HTTP 200; webhook[1] HTTP 200")


async def test_a_bad_url_beside_a_good_one_does_not_stop_the_good_one() -> None:
    async with receiver() as peer, channel() as webhook:
        outcome = await webhook.send(
            delivery(),
            Contact(webhook=(WebhookAddress("ftp://a.example"), WebhookAddress(peer.url))),
        )
    assert isinstance(outcome, Dead)
    assert outcome.reason == "bad_url"
    assert len(peer.calls) == 1


async def test_cookies_of_a_receiver_are_forgotten() -> None:
    async with receiver() as peer, channel() as webhook:
        peer.headers = {"Set-Cookie": "a=b; Path=/"}
        for _ in range(2):
            await webhook.send(delivery(), contact(peer.url))
    assert all("Cookie" not in call.headers for call in peer.calls)


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy, receiver() as peer:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        async with channel() as webhook:
            assert await webhook.send(delivery(), contact(peer.url)) == Done("HTTP 200")
    assert proxy.calls == []


async def test_many_calls_to_one_host_share_a_bounded_number_of_connections() -> None:
    async with receiver() as peer, channel(host_concurrency=5) as webhook:
        outcomes = await asyncio.gather(
            *(webhook.send(delivery(f"user-{n}"), contact(peer.url, secret=SECRET)) for n in range(100))
        )
    assert outcomes == [Done("HTTP 200")] * 100
    assert len(peer.calls) == 100
    assert peer.most_at_once <= 5
    assert len(peer.peers) < 50


async def test_connections_are_kept_for_a_host_that_is_called_often() -> None:
    async with receiver() as peer, channel() as webhook:
        for _ in range(10):
            await webhook.send(delivery(), contact(peer.url))
    assert len(peer.peers) == 2  # the first call's is not kept: most hosts are called once in a while


async def test_https_with_a_trusted_certificate(tmp_path: Path) -> None:
    server, client = certificates(tmp_path, "hooks.test")
    lookup = names({"hooks.test": "127.0.0.1"})
    async with receiver(ssl_context=server) as peer, channel(lookup=lookup, ssl_context=client) as webhook:
        outcome = await webhook.send(delivery(), contact(f"https://hooks.test:{peer.port}/x"))
    assert outcome == Done("HTTP 200")


async def test_the_guard_lets_an_open_address_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_CLOSED_V4", ())  # loopback plays the public address
    server, client = certificates(tmp_path, "hooks.test")
    lookup = names({"hooks.test": "127.0.0.1"})
    async with (
        receiver(ssl_context=server) as peer,
        channel(allow_private=False, lookup=lookup, ssl_context=client) as webhook,
    ):
        for url in (f"https://hooks.test:{peer.port}/x", f"https://127.0.0.1:{peer.port}/x"):
            assert await webhook.send(delivery(), contact(url)) == Done("HTTP 200")


@pytest.mark.parametrize(
    ("name", "days", "cause"), [("other.test", 1, "Hostname mismatch"), ("hooks.test", -1, "expired")]
)
async def test_a_certificate_that_does_not_hold_is_retried_and_its_host_is_not_named(
    tmp_path: Path, name: str, days: int, cause: str
) -> None:
    server, client = certificates(tmp_path, name, days=days)
    lookup = names({"hooks.test": "127.0.0.1"})
    async with receiver(ssl_context=server) as peer, channel(lookup=lookup, ssl_context=client) as webhook:
        outcome = await webhook.send(delivery(), contact(f"https://hooks.test:{peer.port}/x"))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "tls_failed"
    assert cause in outcome.detail
    assert "hooks.test" not in outcome.detail
    assert peer.calls == []


async def test_an_untrusted_certificate_and_plain_text_on_a_tls_port_are_retried(tmp_path: Path) -> None:
    server, _ = certificates(tmp_path, "hooks.test")
    async with receiver(ssl_context=server) as peer, receiver() as plain, channel() as webhook:
        for port in (peer.port, plain.port):
            outcome = await webhook.send(delivery(), contact(f"https://127.0.0.1:{port}/x"))
            assert isinstance(outcome, Retry)
            assert outcome.reason == "tls_failed"


async def test_stop_closes_every_socket() -> None:
    def open_sockets() -> int:
        return sum(1 for handle in Path("/proc/self/fd").iterdir() if _is_socket(handle))

    async with receiver() as peer:
        before = open_sockets()
        async with channel() as webhook:
            for _ in range(3):
                await webhook.send(delivery(), contact(peer.url))
        await eventually(lambda: open_sockets() <= before, timeout_s=5)


def _is_socket(handle: Path) -> bool:
    try:
        return str(handle.readlink()).startswith("socket:")
    except OSError:
        return False
