import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from notifyd.delivery.contact import Contact, WebhookAddress, contact_for, is_muted
from notifyd.errors import InvalidMessage


def contacts(value: Any, user: str = "alice") -> dict[str, msgspec.Raw]:
    return {user: msgspec.Raw(json.dumps(value).encode())}


def parse(value: Any) -> Contact:
    contact = contact_for(contacts(value), "alice")
    assert contact is not None
    return contact


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def test_no_contacts_and_another_users_contact_are_none() -> None:
    assert contact_for(None, "alice") is None
    assert contact_for(contacts({}, "bob"), "alice") is None


def test_a_whole_contact_is_read_and_what_is_unknown_left_alone() -> None:
    contact = parse(
        {
            "userId": "alice",
            "webhook": [{"url": "https://a.example/x", "secret": "whsec_QUJD"}, {"url": "https://b.example"}],
            "email": ["a@b.c"],
            "webpush": [
                {
                    "endpoint": "https://p.example",
                    "expirationTime": None,
                    "keys": {"p256dh": "x", "auth": "y"},
                }
            ],
            "apprise": ["tgram://x"],
            "mute": [{"type": "promo"}],
            "pager": "new in a later release",
        }
    )
    assert contact.webhook == (
        WebhookAddress("https://a.example/x", "whsec_QUJD"),
        WebhookAddress("https://b.example"),
    )
    assert contact.email == ("a@b.c",)
    assert contact.webpush[0].keys.auth == "y"


def test_secrets_are_none_one_or_several() -> None:
    assert WebhookAddress("u").secrets == ()
    assert WebhookAddress("u", "a").secrets == ("a",)
    assert WebhookAddress("u", ("a", "b")).secrets == ("a", "b")


def test_no_address_and_no_secret_shows_in_a_repr() -> None:
    shown = repr(
        parse({"webhook": [{"url": "https://a.example", "secret": "whsec_QUJD"}], "email": ["a@b.c"]})
    )
    assert "example" not in shown
    assert "whsec" not in shown
    assert "a@b.c" not in shown
    assert "example" not in repr(WebhookAddress("https://a.example", "whsec_QUJD"))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"webhook": [{}]}, "webhook[0].url"),
        ({"webhook": [{"url": 1}]}, "webhook[0].url"),
        ({"webhook": [{"url": ""}]}, "webhook[0].url"),
        ({"webhook": [{"url": "x" * 2049}]}, "webhook[0].url"),
        ({"webhook": [{"url": "a"}, {"url": "b", "secret": 7}]}, "webhook[1].secret"),
        ({"webhook": {"url": "a"}}, "webhook"),
        ({"webhook": [{"url": "a"}] * 11}, "webhook"),
        ({"email": "a@b.c"}, "email"),
        ({"webpush": [{"endpoint": "x", "keys": {"auth": "y"}}]}, "webpush[0].keys.p256dh"),
        ({"userId": "bob"}, "userId"),
        ({"mute": [{"from": "yesterday"}]}, "mute[0].from"),
        ({"mute": [{"from": "25:00", "until": "07:00"}]}, "mute[0].from"),
        ({"mute": [{}, {"from": "22:00"}]}, "mute[1]"),
        ({"mute": [{"from": "22:00", "until": "2026-01-01T00:00:00Z"}]}, "mute[0]"),
    ],
)
def test_a_fault_names_its_field(value: Any, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(value)
    assert caught.value.field == f"content.contacts.alice.{field}"
    assert caught.value.reason == "bad_content"
    assert caught.value.rule


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"{", b'{"email":["\xff"]}'])
def test_a_contact_that_is_no_object_is_a_fault_of_the_whole(raw: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        contact_for({"alice": msgspec.Raw(raw)}, "alice")
    assert caught.value.field == "content.contacts.alice"
    assert caught.value.reason == "bad_content"


NOON = ms("2026-11-23T12:00:00Z")


@pytest.mark.parametrize(
    ("rule", "is_quiet"),
    [
        ({}, True),
        ({"type": "promo"}, True),
        ({"type": "order"}, False),
        ({"channel": "webhook"}, True),
        ({"channel": "email"}, False),
        ({"type": "promo", "channel": "email"}, False),
        ({"from": "2026-11-23T12:00:00Z"}, True),
        ({"from": "2026-11-23T12:00:01Z"}, False),
        ({"until": "2026-11-23T12:00:00Z"}, False),
        ({"until": "2026-11-23T20:00:01+08:00"}, True),
        ({"until": "2026-11-23T12:00:01"}, True),
        ({"from": "11:00", "until": "13:00"}, True),
        ({"from": "12:00", "until": "12:01"}, True),
        ({"from": "11:00", "until": "12:00"}, False),
        ({"from": "22:00", "until": "07:00"}, False),
        ({"from": "22:00", "until": "12:30"}, True),
        ({"from": "19:00+08:00", "until": "21:00+08:00"}, True),
        ({"from": "09:00+08:00", "until": "11:00+08:00"}, False),
        ({"from": "06:00-05:00", "until": "08:00-05:00"}, True),
    ],
)
def test_mute_rules(rule: dict[str, str], is_quiet: bool) -> None:
    contact = parse({"mute": [rule]})
    assert is_muted(contact, type="promo", channel="webhook", at_ms=NOON) is is_quiet


def test_critical_overrides_every_rule() -> None:
    contact = parse({"mute": [{}]})
    assert is_muted(contact, type=None, channel="webhook", at_ms=NOON)
    assert not is_muted(contact, type=None, channel="webhook", at_ms=NOON, critical=True)
