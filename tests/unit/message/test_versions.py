from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.errors import InvalidMessage
from notifyd.message.versions import NEWEST, VERSIONS, cast, choose_version, names_of, parse_version


@pytest.mark.parametrize(
    ("own", "reads", "chosen"),
    [
        ("1.1", [], None),
        ("1.1", ["1"], None),
        ("1.1", ["1.1"], None),
        ("1.1", ["1.0", "1.1"], None),
        ("1.1", ["1.0", "1"], None),
        ("1.1", ["1.0"], "1.0"),
        ("1.1", ["2", "1.0"], "1.0"),
        ("1.0", ["1.1"], "1.1"),
        ("1.0", ["1.9"], "1.1"),
        ("1.1", ["1.9"], None),
        ("1.7", ["1.0", "1.1"], "1.1"),
        ("1.7", ["1"], None),
        ("1.1", ["2"], None),
        ("2.0", ["1.1"], None),
        ("0.9", ["1.0"], None),
        ("1.1", ["", "x", "1.0.0"], None),
    ],
)
def test_a_client_gets_the_version_nearest_to_what_was_sent(
    own: str, reads: list[str], chosen: str | None
) -> None:
    assert choose_version(own, tuple(reads)) == chosen


def test_an_unknown_major_version_is_passed_on_as_it_is() -> None:
    raw = b'{"version": "2.0", "title": {"de": "Hallo"}}'
    assert cast(raw, ["1.0"]) is raw


def test_a_later_minor_version_is_cast_to_what_is_known_and_keeps_what_is_not() -> None:
    raw = b'{"version":"1.7","title":"a","url":"b","sparkle":1}'
    assert cast(raw, ["1.1"]) == b'{"version":"1.1","title":"a","url":"b","sparkle":1}'
    assert cast(raw, ["1.0"]) == b'{"version":"1.0","title":"a","sparkle":1}'


def test_content_without_a_version_is_1_0() -> None:
    assert cast(b'{"title":"a"}', ["1.1"]) == b'{"title":"a","version":1.1}'
    assert cast(b'{"title":"a"}', ["1.0"]) == b'{"title":"a"}'


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"version":"x"}', b'{"version":[]}', b'{"a":"\xff"}'])
def test_a_cast_of_what_is_no_content_says_so(raw: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        cast(raw if raw != b'{"a":"\xff"}' else b'{"\xff":1}', ["1.0"])
    assert caught.value.reason == "bad_content"


@given(st.floats() | st.text() | st.integers().map(str) | st.none())
def test_any_version_parses_or_does_not(value: float | str | None) -> None:
    number = parse_version(value)
    assert number is None or all(0 <= part <= 9999 for part in number)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_names = (st.sampled_from(sorted(names_of(NEWEST.schema))) | st.text()).filter(lambda name: name != "version")


@given(st.dictionaries(_names, _json), st.sampled_from(list(VERSIONS.values())))
def test_up_and_down_again_changes_nothing_that_was_there(fields: dict[str, object], version) -> None:
    known = names_of(version.schema)
    added = {name for other in VERSIONS.values() for name in names_of(other.schema)} - known
    content = {name: part for name, part in fields.items() if name not in added}
    content = {"version": version.name, **content}
    raw = json.dumps(content).encode()
    for other in VERSIONS.values():
        there = cast(raw, [other.name])
        assert json.loads(there)["version"] == other.name
        again = json.loads(cast(there, [version.name]))
        kept = names_of(other.schema) | (again.keys() - known)
        assert again == {name: part for name, part in content.items() if name in kept or name not in known}


@given(st.dictionaries(_names, _json), st.lists(st.sampled_from(["1", "1.0", "1.1", "2", "x", "1.5"])))
def test_a_cast_of_a_cast_is_the_same(fields: dict[str, object], reads: list[str]) -> None:
    raw = json.dumps({"version": 1.1, **fields}).encode()
    once = cast(raw, reads)
    assert cast(once, reads) == once
