"""A pass over dead letters: what is noted, what is held back, and where the next one goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.delivery.audit import Action, Handled, Place
from notifyd.errors import NotifydError, PermanentError, TransientError
from notifyd.message.ids import new_id
from notifyd.settings import load_settings
from notifyd.stream.dead_letter import DeadLetter
from notifyd.stream.dead_letter_work import DeadLetterWork
from notifyd.stream.records import OutRecord, RecordPlace
from notifyd.stream.replay import Selection
from notifyd.stream.topics import Topics

TOPICS = Topics.of(load_settings({}))


def letter(partition: int, offset: int, reason: str = "http_503") -> DeadLetter:
    return DeadLetter(
        topic=TOPICS.dlq,
        partition=partition,
        offset=offset,
        timestamp_ms=1_763_892_000_000,
        key=None,
        value=b'{"UUID": "%s", "from": "orders"}' % new_id().encode(),
        reason=reason,
        error="",
        attempts=1,
        first_at_ms=None,
        position="inc/notifyd.messages/0/1",
        channel="webhook",
        user="alice",
        headers=(),
    )


class Trail:
    """An audit in memory."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    async def handled(self, places: Collection[Place]) -> set[Place]:
        return set(places) & set(self.places)

    async def write(self, letters: Sequence[Handled], *, actor: str, action: Action) -> None:
        self.places += [(one.partition, one.offset) for one in letters]


class Broker:
    """Confirms what it is sent, but for the records (by their number) that it has an error for."""

    def __init__(self, errors: dict[int, NotifydError] | None = None) -> None:
        self.errors = errors or {}
        self.count = 0

    async def send(self, records: Sequence[OutRecord]) -> list[RecordPlace | NotifydError]:
        first, self.count = self.count, self.count + len(records)
        numbers = range(first, self.count)
        return [self.errors.get(number) or RecordPlace("t", 0, number, 0) for number in numbers]


async def each(letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for one in letters:
        yield one


def work(trail: Trail, broker: Broker, limit: int | None = None, rate: float = 1e9) -> DeadLetterWork:
    selection = Selection(reason="http_503")
    return DeadLetterWork(
        "replay", selection, topics=TOPICS, audit=trail, send=broker.send, limit=limit, rate=rate
    )


async def test_what_the_broker_did_not_confirm_is_not_noted_and_comes_again() -> None:
    trail = Trail()
    letters = [letter(0, number) for number in range(6)]
    broken = work(trail, Broker({4: TransientError("away", reason="producer_timeout")}), rate=3)
    broken._pause = no_pause
    with pytest.raises(TransientError):
        await broken.run(each(letters), actor="olga")
    assert trail.places == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 5)]
    assert (broken.tally.done, broken.tally.passed) == (5, {0: 3})
    tally = await work(trail, Broker()).run(each(letters[broken.tally.passed[0] :]), actor="olga")
    assert (tally.done, tally.before) == (1, 2)
    assert sorted(trail.places) == [(0, number) for number in range(6)]


async def no_pause(pause_s: float) -> None:
    pass


async def test_one_that_is_too_large_keeps_no_other_back() -> None:
    trail = Trail()
    letters = [letter(1, number) for number in range(3)]
    broker = Broker({1: PermanentError("too large", reason="record_too_large")})
    tally = await work(trail, broker).run(each(letters), actor="olga")
    assert (tally.done, list(tally.refused.values())) == (2, [[(1, 1)]])
    assert trail.places == [(1, 0), (1, 2)]


async def test_without_an_actor_it_counts_alone() -> None:
    trail, broker = Trail(), Broker()
    tally = await work(trail, broker).run(each([letter(0, 0), letter(0, 1, "other")]), actor=None)
    assert (tally.done, tally.passed) == (1, {0: 2})
    assert (broker.count, trail.places) == (0, [])


@given(
    marks=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=60),
    limit=st.integers(1, 9),
    rate=st.sampled_from([1.0, 4.0, 1e9]),
)
async def test_requests_one_after_the_other_do_each_letter_once(
    marks: list[tuple[int, bool, bool]], limit: int, rate: float
) -> None:
    """Whatever is mixed of letters that are meant, that are not, and that were handled before."""
    trail, letters, wanted = Trail(), [], set()
    ends = {0: 0, 1: 0, 2: 0}
    for partition, is_meant, is_handled in marks:
        place = (partition, ends[partition])
        ends[partition] += 1
        letters.append(letter(*place, "http_503" if is_meant else "other"))
        if is_meant and is_handled:
            trail.places.append(place)
        elif is_meant:
            wanted.add(place)
    earlier, broker = len(trail.places), Broker()
    passed: dict[int, int] = {}
    for _ in range(len(marks) + 1):
        rest = [one for one in letters if one.offset >= passed.get(one.partition, 0)]
        request = work(trail, broker, limit, rate)
        request._pause = no_pause
        tally = await request.run(each(rest), actor="olga")
        assert tally.done <= limit
        passed |= tally.passed
        if not tally.is_cut:
            break
    assert sorted(trail.places[earlier:]) == sorted(wanted)
    assert broker.count == len(wanted)
    assert {partition: end for partition, end in ends.items() if end} == passed
