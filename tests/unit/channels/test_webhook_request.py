import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError
from yarl import URL

from notifyd.channels.port import Delivery
from notifyd.channels.webhook_request import Request, make_request, parse_secret, webhook_id
from notifyd.channels.webhook_url import parse_url
from notifyd.delivery.contact import WebhookAddress
from notifyd.delivery.outcome import Dead
from notifyd.message.envelope import Limits, decode
from notifyd.settings import Settings

GLOBAL_ID = "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11"
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()
BODY = '{"user":"alice","message":{"title":"Grüße"}}'.encode()


def delivery(user: str = "alice") -> Delivery:
    value = {
        "from": "orders",
        "UUID": GLOBAL_ID,
        "content": {"version": 1.1, "title": "On its way"},
        "toUserIds": [user],
        "createBy": "orders-svc",
        "createDateTime": "2025-11-23T10:00:00Z",
    }
    message = decode(
        json.dumps(value).encode(),
        timestamp_ms=1_763_892_000_000,
        limits=Limits.of(Settings()),
        is_exempt=True,
    )
    return Delivery(message, user, "webhook", "", 1)


def make(address: WebhookAddress, body: bytes = BODY) -> Request | Dead:
    return make_request(URL(address.url), address, delivery(), body, now_s=time.time())


def made(*secrets: str) -> Request:
    request = make(WebhookAddress("https://a.example/in", secrets or None))
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("secret", [f"whsec_{KEY}", KEY, KEY.rstrip("=")])
def test_the_library_verifies_our_signature(secret: str) -> None:
    Webhook(KEY).verify(BODY, made(secret).headers)


def test_another_secret_and_another_body_do_not_verify() -> None:
    headers = made(f"whsec_{KEY}").headers
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(BODY + b" ", headers)


def test_during_a_rotation_either_secret_verifies() -> None:
    headers = made(KEY, OTHER).headers
    Webhook(KEY).verify(BODY, headers)
    Webhook(OTHER).verify(BODY, headers)


def test_without_a_secret_nothing_is_signed_but_the_id_is_there() -> None:
    headers = made().headers
    assert "webhook-signature" not in headers
    assert headers["webhook-id"].startswith(GLOBAL_ID)


def test_the_id_is_stable_and_another_for_each_user_channel_and_url() -> None:
    variants = [
        webhook_id(GLOBAL_ID, user, channel, url)
        for user in ("alice", "bob")
        for channel in ("webhook", "other")
        for url in ("https://a.example", "https://b.example")
    ]
    assert len(set(variants)) == 8
    assert variants[0] == webhook_id(GLOBAL_ID, "alice", "webhook", "https://a.example")
    assert all("." not in variant for variant in variants)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not-base64!", "söcret", "whsec_QUJD\n", "A"])
def test_a_secret_that_is_none_is_dead(secret: str) -> None:
    assert parse_secret(secret) is None
    dead = make(WebhookAddress("https://a.example", secret))
    assert isinstance(dead, Dead)
    assert dead.reason == "bad_secret"
    assert secret in ("", "whsec_") or secret not in dead.detail


def test_a_body_that_is_not_text_is_dead() -> None:
    dead = make(WebhookAddress("https://a.example", KEY), b"\xff")
    assert isinstance(dead, Dead)
    assert dead.reason == "bad_content"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://a.example", "https_required"),
        ("HTTP://a.example", "https_required"),
        ("ftp://a.example", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("//a.example", "bad_url"),
        ("a.example", "bad_url"),
        ("https://", "bad_url"),
        ("https:///path", "bad_url"),
        ("https://user:pw@a.example", "bad_url"),
        ("https://user@a.example", "bad_url"),
        ("https://a.example:0", "bad_url"),
        ("https://a.example:22", "bad_url"),
        ("https://a.example:65536", "bad_url"),
        ("https://a.example:port", "bad_url"),
        ("https://a.example\\@127.0.0.1/", "bad_url"),
        ("https://a.example/\r\nX: y", "bad_url"),
        (" https://a.example", "bad_url"),
        ("https://[::1", "bad_url"),
        ("https://a[b]c@", "bad_url"),
        ("https://xn--a.example" + "\x00", "bad_url"),
    ],
)
def test_urls_that_go_nowhere(text: str, reason: str) -> None:
    dead = parse_url(text, allow_private=False)
    assert isinstance(dead, Dead)
    assert dead.reason == reason


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://a.example", "a.example"),
        ("https://A.example:8443/x?y=z#f", "a.example"),
        ("https://a.example:443/", "a.example"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://[2606:4700::1111]/", "2606:4700::1111"),
    ],
)
def test_urls_that_may_go_out(text: str, host: str) -> None:
    url = parse_url(text, allow_private=False)
    assert not isinstance(url, Dead)
    assert url.raw_host == host


def test_tests_may_use_plain_http_and_any_port() -> None:
    assert not isinstance(parse_url("http://127.0.0.1:22", allow_private=True), Dead)


def test_a_request_shows_nothing_in_its_repr() -> None:
    assert repr(made(KEY)) == "Request()"


@given(
    st.text(max_size=40)
    | st.builds(
        lambda host, rest: f"https://{host}{rest}",
        st.text(max_size=20) | st.ip_addresses().map(str),
        st.text(max_size=20),
    )
)
def test_whatever_the_url_the_answer_is_a_url_or_dead(text: str) -> None:
    found = parse_url(text, allow_private=False)
    if not isinstance(found, Dead):
        assert found.scheme == "https"
        assert found.raw_host
        assert found.raw_host.isascii()


@given(st.text(max_size=60))
def test_whatever_the_secret_it_signs_or_is_none(text: str) -> None:
    key = parse_secret(text)
    assert key is None or Webhook(key).sign("id", datetime.now(UTC), "body")
