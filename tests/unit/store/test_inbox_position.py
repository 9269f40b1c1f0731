"""Positions in an inbox, the days that a page reads, and the tokens that clients keep of them."""

from __future__ import annotations

import datetime as dt
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from notifyd.http.reads import from_token, to_token
from notifyd.store.days import day_of_id, parse_days
from notifyd.store.inbox import TOP, Position

_AT = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(9999, 12, 1), timezones=st.just(dt.UTC))
_POSITIONS = st.builds(Position, _AT, st.uuids().map(str))
_USERS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


@settings(max_examples=30)
@given(_POSITIONS, _POSITIONS)
def test_just_above_leaves_room_for_nothing(one: Position, other: Position) -> None:
    above = one.just_above()
    assert above > one
    assert not one < other < above
    assert one < TOP


def test_above_the_last_id_of_a_moment_is_the_first_of_the_next() -> None:
    at = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
    above = Position(at, str(uuid.UUID(int=2**128 - 1))).just_above()
    assert above == Position(at + dt.timedelta(microseconds=1), str(uuid.UUID(int=0)))


@settings(max_examples=30)
@given(_USERS, _POSITIONS)
def test_a_token_brings_back_its_position(user: str, position: Position) -> None:
    assert from_token(user, to_token(user, position)) == position


@settings(max_examples=30)
@given(_USERS, _USERS, _POSITIONS)
def test_a_token_is_of_one_user(user: str, other: str, position: Position) -> None:
    if user != other:
        assert from_token(other, to_token(user, position)) is None


@settings(max_examples=30)
@given(_USERS, st.one_of(st.text(), st.binary().map(lambda value: value.hex())))
def test_garbage_is_no_token(user: str, text: str) -> None:
    assert from_token(user, text) is None


@settings(max_examples=30)
@given(_USERS, _POSITIONS, st.data())
def test_a_token_with_any_character_changed_is_none(
    user: str, position: Position, data: st.DataObject
) -> None:
    token = to_token(user, position)
    place = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from("ABCDwxyz0189-_"))
    changed = token[:place] + char + token[place + 1 :]
    # The last character has bits that mean nothing.
    if changed[:-1] != token[:-1]:
        assert from_token(user, changed) is None


@settings(max_examples=30)
@given(st.sets(st.dates(dt.date(2025, 1, 1), dt.date(2025, 12, 31))))
def test_days_come_out_of_a_multirange_latest_first(days: set[dt.date]) -> None:
    one = dt.timedelta(days=1)
    starts = sorted(day for day in days if day - one not in days)
    ends = sorted(day + one for day in days if day + one not in days)
    text = "{" + ",".join(f"[{start},{end})" for start, end in zip(starts, ends, strict=True)) + "}"
    assert parse_days(text) == sorted(days, reverse=True)


def test_a_day_is_read_out_of_time_ordered_ids_alone() -> None:
    assert day_of_id("019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11") == dt.date(2025, 11, 22)
    assert day_of_id("019aab3e-6f0c-4d44-9f6a-0d1f5a2b9c11") is None
    assert day_of_id("ffffffff-ffff-7fff-bfff-ffffffffffff") is None
