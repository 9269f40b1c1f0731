"""The replay window against a model that keeps everything."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from notifyd.push.window import ENTRY_BYTES, RECIPIENT_BYTES, Window
from tests.fixtures.push import make_message

USERS = ("alice", "bob", "carol")
MESSAGES = {users: make_message(users) for users in [USERS, *((user,) for user in USERS), ("alice", "bob")]}
#: At least what the largest of them counts for.
SIZE = ENTRY_BYTES + 3 * RECIPIENT_BYTES + max(len(message.raw) for message in MESSAGES.values())


# (partition, how many offsets are skipped, users, seconds that pass)
arrivals = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(sorted(MESSAGES)), st.integers(0, 4)),
    max_size=60,
)


def read_all(window: Window, user: str, place: dict[int, int]) -> list[tuple[int, int]]:
    """Read as a replay does: from the first number on, a few at a time."""
    found, number = [], window.first_number(user, place)
    while number is not None:
        assert window.holds(number)
        entries = window.read(user, number, 2)
        found += [
            (entry.partition, entry.offset)
            for entry in entries
            if entry.offset >= place.get(entry.partition, 0)
        ]
        number = window.next_number(user, entries[-1].number + 1)
    return found


@given(
    arrivals=arrivals,
    max_entries=st.integers(0, 30),
    max_age_s=st.integers(0, 60),
    data=st.data(),
)
def test_what_it_covers_it_has_whole_in_order_and_for_the_right_users(
    arrivals: Any, max_entries: int, max_age_s: int, data: Any
) -> None:
    window = Window(max_entries * SIZE, max_age_s)
    model: list[tuple[int, int, tuple[str, ...]]] = []
    ends: dict[int, int] = {}
    now_s = 0.0
    for partition, skipped, users, passed in arrivals:
        now_s += passed
        offset = ends.get(partition, 0) + skipped
        if partition not in ends:
            window.begin(partition, 0)
        window.add(partition, offset, MESSAGES[users], now_s)
        window.advance(partition, offset)  # behind its end: changes nothing
        ends[partition] = offset + 1
        model.append((partition, offset, users))
        assert window.bytes <= max_entries * SIZE
    assert window.ends == ends
    assert window.floors.keys() == ends.keys()
    for user in USERS:
        place = {
            partition: data.draw(st.integers(floor, ends[partition]))
            for partition, floor in window.floors.items()
        }
        expected = [(p, o) for p, o, users in model if user in users and o >= place[p]]
        assert read_all(window, user, place) == expected


@given(arrivals=arrivals)
def test_what_has_gone_leaves_nothing_behind(arrivals: Any) -> None:
    window, ends = Window(1 << 30, 5.0), {0: 0, 1: 0, 2: 0}
    for partition, skipped, users, _ in arrivals:
        offset = ends[partition] + skipped
        window.add(partition, offset, MESSAGES[users], 0.0)
        ends[partition] = offset + 1
    window.trim(5.1)
    assert (len(window), window.bytes, window._by_user, window._by_partition) == (0, 0, {}, {})
    assert all(window.floors[partition] == ends[partition] for partition in window.ends)


def test_a_partition_begun_anew_has_nothing_of_before() -> None:
    window = Window(1 << 30, 60.0)
    for offset in range(10):
        window.add(0, offset, MESSAGES["alice",], 0.0)
        window.add(1, offset, MESSAGES["alice",], 0.0)
    window.begin(0, 5)
    window.add(0, 5, MESSAGES["alice",], 0.0)
    assert read_all(window, "alice", {0: 5, 1: 8}) == [(1, 8), (1, 9), (0, 5)]
    assert (window.floors[0], window.ends[0], len(window)) == (5, 6, 11)


def test_a_user_of_many_messages_is_found_quickly_and_compacted() -> None:
    window = Window(1 << 30, 10.0)
    for offset in range(1000):
        window.add(0, offset, MESSAGES["alice",], offset)
    assert len(window._by_user["alice"]) < 50
    assert read_all(window, "alice", {0: 998}) == [(0, 998), (0, 999)]
