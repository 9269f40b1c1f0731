from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from notifyd.errors import InvalidMessage
from notifyd.message.content import Content
from notifyd.message.envelope import Limits, decode, find_faults

AT = "2026-11-23T12:00:00Z"
AT_MS = int(dt.datetime.fromisoformat(AT).timestamp() * 1000)
DAY_S = 86_400


def envelope(content: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "from": "orders",
            "UUID": "7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6",
            "content": content,
            "toUserIds": ["alice"],
            "createBy": "orders-svc",
            "createDateTime": AT,
        }
    ).encode()


def read(content: dict[str, Any]) -> Content:
    assert find_faults(envelope(content), timestamp_ms=AT_MS, limits=Limits()) == []
    return decode(envelope(content), timestamp_ms=AT_MS, limits=Limits()).content


def faults_of(content: dict[str, Any]) -> list[InvalidMessage]:
    value = envelope(content)
    message = decode(value, timestamp_ms=AT_MS, limits=Limits())
    found = find_faults(value, timestamp_ms=AT_MS, limits=Limits())
    with pytest.raises(InvalidMessage) as caught:
        _ = message.content
    assert str(caught.value) == str(found[0])
    assert all(fault.reason == "bad_content" and fault.rule and fault.remedy for fault in found)
    return found


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"version": True}, "content.version"),
        ({"version": "one"}, "content.version"),
        ({"version": "1.0.0"}, "content.version"),
        ({"version": -1}, "content.version"),
        ({"version": 1e300}, "content.version"),
        ({"version": ""}, "content.version"),
        ({"type": 1}, "content.type"),
        ({"title": {}}, "content.title"),
        ({"body": ["x"]}, "content.body"),
        ({"url": False}, "content.url"),
        ({"channels": "ws"}, "content.channels"),
        ({"channels": []}, "content.channels"),
        ({"channels": ["ws"] * 17}, "content.channels"),
        ({"channels": ["ws", 3]}, "content.channels[1]"),
        ({"channels": ["ws", ""]}, "content.channels[1]"),
        ({"channels": ["Web Hook"]}, "content.channels[0]"),
        ({"channels": ["x" * 33]}, "content.channels[0]"),
        ({"contacts": []}, "content.contacts"),
        ({"contacts": {"alice": "a@b.c"}}, "content.contacts.alice"),
        ({"ttl": -1}, "content.ttl"),
        ({"ttl": 0}, "content.ttl"),
        ({"ttl": True}, "content.ttl"),
        ({"ttl": "soon"}, "content.ttl"),
        ({"ttl": "15"}, "content.ttl"),
        ({"ttl": "-15m"}, "content.ttl"),
        ({"ttl": "15M"}, "content.ttl"),
        ({"ttl": "1m "}, "content.ttl"),
        ({"ttl": 1e300}, "content.ttl"),
        ({"ttl": 10**400}, "content.ttl"),
        ({"ttl": "8d"}, "content.ttl"),
        ({"ttl": [1]}, "content.ttl"),
        ({"expiresAt": "tomorrow"}, "content.expiresAt"),
        ({"expiresAt": "2026-11-24"}, "content.expiresAt"),
        ({"expiresAt": "2026-11-24T00:00:00"}, "content.expiresAt"),
        ({"expiresAt": 1795431600}, "content.expiresAt"),
        ({"expiresAt": "2026-12-24T00:00:00Z"}, "content.expiresAt"),
        ({"notBefore": "later"}, "content.notBefore"),
        ({"notBefore": 5}, "content.notBefore"),
        ({"notBefore": "2027-11-24T00:00:00Z"}, "content.notBefore"),
        ({"notBefore": "2027-11-24T00:00:00Z", "ttl": 1}, "content.notBefore"),
        ({"notBefore": "2026-11-28T12:00:00Z", "ttl": "3d"}, "content.ttl"),
        ({"notBefore": "2026-11-28T12:00:00Z", "expiresAt": "2026-11-27T12:00:00Z"}, "content.expiresAt"),
        ({"collapseKey": ""}, "content.collapseKey"),
        ({"collapseKey": "x" * 129}, "content.collapseKey"),
        ({"collapseKey": 3}, "content.collapseKey"),
        ({"critical": "yes"}, "content.critical"),
        ({"critical": 1}, "content.critical"),
        ({"fallback": "email"}, "content.fallback"),
        ({"fallback": {"after": "15m"}}, "content.fallback"),
        ({"fallback": {"channels": ["email"]}}, "content.fallback"),
        ({"fallback": {"after": None, "channels": ["email"]}}, "content.fallback.after"),
        ({"fallback": {"after": "x", "channels": ["email"]}}, "content.fallback.after"),
        ({"fallback": {"after": "30d", "channels": ["email"]}}, "content.fallback.after"),
        ({"fallback": {"after": "1m", "channels": []}}, "content.fallback.channels"),
        ({"fallback": {"after": "1m", "channels": ["A"]}}, "content.fallback.channels[0]"),
        ({"fallback": {"after": "1m", "channels": [1]}}, "content.fallback.channels[0]"),
    ],
)
def test_each_fault_of_content_names_its_field(content: dict[str, Any], field: str) -> None:
    assert [fault.field for fault in faults_of(content)] == [field]


def test_all_faults_of_content_are_found_at_once() -> None:
    found = faults_of({"version": "x", "title": 1, "ttl": -1, "critical": 2, "channels": ["ws", "B!", 3]})
    assert {fault.field.split("[")[0] for fault in found} == {
        "content.version",
        "content.title",
        "content.ttl",
        "content.critical",
        "content.channels",
    }


def test_empty_content_is_good_and_goes_to_ws() -> None:
    content = read({})
    assert content.version == "1.0"
    assert (content.type, content.title, content.body, content.url, content.data) == ("", "", "", None, None)
    assert content.channels == ("ws",)
    assert content.contacts is None
    assert content.expires_at_ms(AT_MS) is None
    assert (content.not_before_ms, content.collapse_key, content.fallback) == (None, None, None)
    assert content.critical is False


def test_null_is_as_good_as_absent() -> None:
    names = ("version", "type", "title", "body", "url", "data", "channels", "contacts", "ttl", "expiresAt")
    names += ("notBefore", "collapseKey", "critical", "fallback")
    assert read(dict.fromkeys(names)) == read({})


@pytest.mark.parametrize(
    ("version", "name"),
    [(1, "1.0"), (1.0, "1.0"), (1.1, "1.1"), ("1", "1.0"), ("1.1", "1.1"), ("1.10", "1.10"), (7, "7.0")],
)
def test_a_version_is_a_number_or_text(version: float | str, name: str) -> None:
    assert read({"version": version}).version == name


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (900, 900),
        (0.5, 0.5),
        ("15m", 900),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("2d", 2 * DAY_S),
        ("7d", 7 * DAY_S),
    ],
)
def test_ttl_is_seconds_or_a_duration_and_counts_from_the_record(ttl: float | str, seconds: float) -> None:
    content = read({"ttl": ttl})
    assert content.ttl_s == seconds
    assert content.expires_at_ms(AT_MS) == AT_MS + int(seconds * 1000)


def test_of_ttl_and_expires_at_the_earlier_holds() -> None:
    in_an_hour_ms = AT_MS + 3_600_000
    both = read({"ttl": "2h", "expiresAt": "2026-11-23T13:00:00Z"})
    assert both.expires_at_ms(AT_MS) == in_an_hour_ms
    assert read({"ttl": "1h", "expiresAt": "2026-11-23T14:00:00Z"}).expires_at_ms(AT_MS) == in_an_hour_ms


def test_a_message_may_arrive_when_it_has_expired_already() -> None:
    assert read({"expiresAt": "2026-11-20T00:00:00Z", "notBefore": "2026-11-19T00:00:00Z"}).until_ms


def test_a_fallback_is_read_with_its_time() -> None:
    fallback = read({"fallback": {"after": "15m", "channels": ["email", "email"], "x": 1}}).fallback
    assert fallback is not None
    assert (fallback.after_s, fallback.channels) == (900, ("email",))


def test_channels_lose_their_doubles_and_keep_their_order() -> None:
    assert read({"channels": ["webhook", "ws", "webhook"]}).channels == ("webhook", "ws")


def test_contacts_stay_raw_by_user() -> None:
    contacts = read({"contacts": {"alice": {"email": ["a@b.c"]}, "zoe": {}}}).contacts
    assert contacts is not None
    assert bytes(contacts["alice"]) == b'{"email": ["a@b.c"]}'


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert read({"x-own": [1], "Channels": 3, "version": 1.7}).version == "1.7"


def test_a_field_of_a_later_minor_version_counts_in_an_earlier_one_too() -> None:
    assert read({"version": "1.0", "critical": True, "collapseKey": "k"}).critical is True


def test_what_clients_show_is_theirs_in_an_unknown_major_version() -> None:
    content = read({"version": 2, "title": {"de": "Hallo"}, "body": 3, "url": [], "type": 1, "ttl": "1m"})
    assert (content.version, content.title, content.ttl_s) == ("2.0", "", 60)


def test_what_notifyd_acts_on_means_the_same_in_every_major_version() -> None:
    fields = [f.field for f in faults_of({"version": 2, "title": 3, "notBefore": "x", "channels": 1})]
    assert fields == ["content.channels", "content.notBefore"]
