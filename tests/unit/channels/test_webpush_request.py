"""A web push is encrypted for one browser, signed as ours, and small enough."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from notifyd.channels.http_message import Request
from notifyd.channels.port import Delivery
from notifyd.channels.webhook_url import parse_url
from notifyd.channels.webpush_request import (
    MAX_PLAIN_BYTES,
    MAX_TTL_S,
    Vapid,
    make_plain,
    make_push,
    new_keys,
)
from notifyd.delivery.contact import PushKeys, PushSubscription
from notifyd.delivery.outcome import Dead
from notifyd.errors import ConfigError
from tests.fixtures.push import make_message
from tests.fixtures.webpush import Browser

PRIVATE, PUBLIC = new_keys()
VAPID = Vapid(PRIVATE, "mailto:ops@shop.example")
NOW = float(int(time.time()))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3000)


def push(browser=None, *, now_s=NOW, subscription=None, **content):
    message = make_message("ann", timestamp_ms=int(NOW * 1000), **content)
    found = subscription or (browser or Browser("https://push.example/s/1")).subscription
    delivery = Delivery(message, "ann", "webpush", "", 1)
    url = parse_url(found.endpoint, allow_private=False)
    if isinstance(url, Dead):
        return url
    return make_push(url, found, delivery, make_plain(message), VAPID, now_s=now_s)


def test_only_the_browser_reads_it():
    browser = Browser("https://push.example/s/1")
    request = push(browser, title="On its way")
    assert isinstance(request, Request)
    assert b"On its way" not in request.body
    assert json.loads(browser.decrypt(request.body))["message"]["content"]["title"] == "On its way"
    assert request.headers["Content-Encoding"] == "aes128gcm"
    assert len(request.body) <= 4096


def test_it_is_signed_for_this_push_service():
    header = push().headers["Authorization"]
    assert header.startswith("vapid t=")
    token, key = header.removeprefix("vapid t=").split(",k=")
    assert key == PUBLIC
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), jwt.utils.base64url_decode(key))
    claims = jwt.decode(
        token, point, ["ES256"], audience="https://push.example", options={"verify_exp": False}
    )
    assert claims["sub"] == "mailto:ops@shop.example"
    assert NOW < claims["exp"] <= NOW + 24 * 3600


def test_a_signature_serves_for_hours_and_never_to_its_end():
    first = push().headers["Authorization"]
    assert push(now_s=NOW + 3600).headers["Authorization"] == first
    assert push(now_s=NOW + 7 * 3600).headers["Authorization"] != first
    other = push(Browser("https://other.example/s/1")).headers["Authorization"]
    assert other != first


@pytest.mark.parametrize(("content", "ttl"), [({}, MAX_TTL_S), ({"ttl": 60}, 50), ({"ttl": 5}, 0)])
def test_the_service_keeps_it_as_long_as_it_is_of_use(content, ttl):
    assert push(now_s=NOW + 10, **content).headers["TTL"] == str(ttl)


def test_what_collapses_has_one_topic():
    one, two, other = (push(collapse_key=key).headers["Topic"] for key in ("order 7", "order 7", "order 8"))
    assert one == two != other
    assert 0 < len(one) <= 32
    assert "Topic" not in push().headers


def test_critical_is_urgent():
    assert push().headers["Urgency"] == "normal"
    assert push(critical=True).headers["Urgency"] == "high"


@given(title=TEXT, body=TEXT)
def test_the_payload_always_fits(title, body):
    message = make_message("ann", title=title, body=body, url="https://shop.example/" + "x" * 500)
    plain = make_plain(message)
    assert len(plain) <= MAX_PLAIN_BYTES
    read = json.loads(plain)
    content = read["message"]["content"]
    assert read["message"]["UUID"] == message.id
    assert title.startswith(content["title"])
    assert body.startswith(content["body"])
    assert read.get("truncated", False) == ((content["title"], content["body"]) != (title, body))


def test_data_goes_before_what_is_shown():
    message = make_message("ann", title="On its way", data={"blob": "x" * 5000})
    read = json.loads(make_plain(message))
    assert read["truncated"]
    assert read["message"]["content"]["title"] == "On its way"
    assert "data" not in read["message"]["content"]


GOOD = Browser("https://push.example/s/1").subscription


@pytest.mark.parametrize(
    ("subscription", "reason"),
    [
        (PushSubscription("http://push.example/s", GOOD.keys), "https_required"),
        (PushSubscription("nowhere", GOOD.keys), "bad_url"),
        (PushSubscription(GOOD.endpoint, PushKeys("", GOOD.keys.auth)), "bad_subscription"),
        (PushSubscription(GOOD.endpoint, PushKeys("ä", GOOD.keys.auth)), "bad_subscription"),
        (PushSubscription(GOOD.endpoint, PushKeys(GOOD.keys.p256dh, "c2hvcnQ")), "bad_subscription"),
        (PushSubscription(GOOD.endpoint, PushKeys("A" * 86 + "A", GOOD.keys.auth)), "bad_subscription"),
    ],
)
def test_a_subscription_that_cannot_work_is_dead(subscription, reason):
    found = push(subscription=subscription)
    assert isinstance(found, Dead)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("key", "subject", "setting"),
    [
        ("", "mailto:a@b.c", "NOTIFYD_WEBPUSH_KEY"),
        ("A" * 43, "mailto:a@b.c", "NOTIFYD_WEBPUSH_KEY"),
        (PUBLIC, "mailto:a@b.c", "NOTIFYD_WEBPUSH_KEY"),
        (PRIVATE, None, "NOTIFYD_WEBPUSH_SUBJECT"),
        (PRIVATE, "ops@shop.example", "NOTIFYD_WEBPUSH_SUBJECT"),
    ],
    ids=["no key", "zeros", "the public one", "no subject", "no mailto"],
)
def test_settings_that_cannot_work_are_named(key, subject, setting):
    with pytest.raises(ConfigError, match=setting) as error:
        Vapid(key, subject)
    assert PRIVATE not in f"{error.value.message} {error.value.remedy}"
