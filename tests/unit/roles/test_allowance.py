"""Resends are bounded in every second, whatever came before."""

from __future__ import annotations

import asyncio

import pytest

from notifyd.roles.allowance import Allowance, Turns


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("per_s", "most", "window_s"), [(50, 50, 1.0), (2.5, 2, 0.8), (1, 1, 1), (0.1, 1, 10)]
)
def test_no_second_sees_more_than_it_may(per_s: float, most: int, window_s: float) -> None:
    clock = Clock()
    allowance = Allowance(per_s, clock)
    taken = []
    clock.now += 3600  # nothing to do for an hour saves nothing up
    for _ in range(4000):
        if allowance.take():
            taken.append(clock.now)
        clock.now += window_s / 64
    for first, after in zip(taken, taken[most:], strict=False):
        assert after - first >= window_s
    # And what it may see, it does.
    assert len(taken) >= most * (4000 // 64) * 0.95


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that goes on only while somebody sleeps."""
    clock = Clock()
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        wakes_at = clock.now + seconds
        for _ in range(5):  # what can be done before is done before
            await sleep(0)
        clock.now = max(clock.now, wakes_at)

    monkeypatch.setattr(asyncio, "sleep", slept)
    return clock


async def test_turns_come_at_their_rate_and_who_would_wait_too_long_is_told_at_once(clock: Clock) -> None:
    turns = Turns(20, 1.5, clock)
    assert all([await turns.take() for _ in range(20)])
    waiting = [asyncio.create_task(turns.take()) for _ in range(40)]
    # Thirty come in the time that anybody waits; the others need not wait to know.
    told_at = {}
    for number, task in enumerate(waiting):
        task.add_done_callback(lambda task, number=number: told_at.setdefault(number, clock.now))
    outcomes = await asyncio.gather(*waiting)
    assert [number for number, at in told_at.items() if at == Clock.now] == list(range(30, 40))
    assert not any(outcomes[30:])
    # Those of the first second; the ten after them would have come after two.
    assert outcomes[:30] == [True] * 20 + [False] * 10


async def test_a_turn_is_waited_for_where_it_comes_in_time(clock: Clock) -> None:
    turns = Turns(5, 1.5, clock)
    assert all([await turns.take() for _ in range(6)])
    assert clock.now == Clock.now + 1
