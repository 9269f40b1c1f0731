"""Which id is in force, whatever several `topics create` wrote at once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from notifyd.stream.incarnation import Incarnation, chain_end


def begin(new: str, after: str | None = None) -> dict[str, Any]:
    return {"id": new, "after": after}


def done(name: str) -> dict[str, Any]:
    return {"done": name}


def test_an_empty_topic_has_no_incarnation() -> None:
    assert chain_end([]) == Incarnation(None, False)


def test_an_id_counts_as_done_once_its_topics_were_created() -> None:
    assert chain_end([begin("a")]) == Incarnation("a", False)
    assert chain_end([begin("a"), done("a")]) == Incarnation("a", True)


def test_of_two_that_began_at_once_the_first_record_wins() -> None:
    assert chain_end([begin("a"), begin("b"), done("a"), done("a")]) == Incarnation("a", True)


def test_topics_made_anew_get_the_id_that_follows_the_old_one() -> None:
    records = [begin("a"), done("a"), begin("b", "a"), begin("c", "a"), done("b")]
    assert chain_end(records) == Incarnation("b", True)


def test_the_loser_of_an_earlier_life_does_not_return_in_a_later_one() -> None:
    assert chain_end([begin("a"), begin("b"), begin("c", "b"), done("a")]) == Incarnation("a", True)


def test_a_circle_comes_to_an_end() -> None:
    assert chain_end([begin("a"), begin("b", "a"), begin("a", "b")]).id == "a"


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12))
def test_readers_of_any_longer_prefix_agree_on_the_first_of_a_generation(ids: list[str]) -> None:
    records = [begin(name) for name in ids]
    assert {chain_end(records[:length]).id for length in range(1, len(records) + 1)} == {ids[0]}
