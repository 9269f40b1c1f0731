"""Names of the groups of single processes: ours are known by their form, and tell when they began."""

from __future__ import annotations

import time

import pytest

from notifyd.stream.groups import OwnGroup, began_ms, is_own, new_group, orphans_of


def test_a_name_tells_when_its_process_began():
    before_ms = int(time.time() * 1000)
    name = new_group("notifyd-ws")
    assert is_own(name, "notifyd-ws")
    began = began_ms(name)
    assert began is not None
    assert before_ms <= began <= int(time.time() * 1000)
    assert new_group("notifyd-ws") != name


def test_a_name_of_an_earlier_release_is_ours_and_tells_no_time():
    assert is_own("notifyd-ws-0f3a9c44be17", "notifyd-ws")
    assert began_ms("notifyd-ws-0f3a9c44be17") is None


@pytest.mark.parametrize(
    "name",
    [
        "notifyd-ws",
        "notifyd-ws-",
        "notifyd-deliver",
        "notifyd-ws-x-deliver",
        "notifyd-ws-x-ws-0f3a9c44be17",
        "notifyd-ws-0f3a9c44be1",
        "notifyd-ws-0F3A9C44BE17",
        "other-notifyd-ws-0f3a9c44be17",
    ],
)
def test_no_group_of_others_is_ours(name):
    assert not is_own(name, "notifyd-ws")


def test_left_over_is_what_is_empty_and_old_or_of_unknown_age():
    def group(name: str, *, is_empty: bool, began: int | None) -> OwnGroup:
        return OwnGroup(name, is_empty, began)

    groups = [
        group("old", is_empty=True, began=1_000),
        group("at-the-limit", is_empty=True, began=40_000),
        group("young", is_empty=True, began=40_001),
        group("used", is_empty=False, began=1_000),
        group("undated", is_empty=True, began=None),
        group("undated-used", is_empty=False, began=None),
    ]
    found = orphans_of(groups, now_ms=100_000, older_than_s=60)
    assert [one.name for one in found] == ["old", "at-the-limit", "undated"]
