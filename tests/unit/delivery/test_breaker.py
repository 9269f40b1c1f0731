from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from notifyd.delivery.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(share=0.5, min_dead=10, window_s=60, pause_s=30)


def test_a_sender_whose_deliveries_die_is_paused_and_others_are_not() -> None:
    breaker = Breaker(POLICY)
    tripped = [breaker.note("bad", "webhook", is_dead=True, now_s=float(n)) for n in range(10)]
    assert tripped == [False] * 9 + [True]
    assert breaker.paused_for_s("bad", "webhook", 10.0) == 29.0
    assert breaker.paused_for_s("bad", "email", 10.0) == 0
    assert breaker.paused_for_s("good", "webhook", 10.0) == 0


def test_a_few_deaths_among_many_pause_nobody() -> None:
    breaker = Breaker(POLICY)
    assert not any(breaker.note("a", "webhook", is_dead=n % 3 == 0, now_s=0.0) for n in range(1000))


def test_deaths_long_ago_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for n in range(9):
        breaker.note("a", "webhook", is_dead=True, now_s=float(n))
    assert not breaker.note("a", "webhook", is_dead=True, now_s=100.0)


def test_after_a_pause_it_takes_as_many_deaths_again() -> None:
    breaker = Breaker(POLICY)
    for n in range(10):
        breaker.note("a", "webhook", is_dead=True, now_s=float(n))
    again = [breaker.note("a", "webhook", is_dead=True, now_s=40.0) for _ in range(10)]
    assert again == [False] * 9 + [True]


def test_what_ends_during_a_pause_does_not_lengthen_it() -> None:
    breaker = Breaker(POLICY)
    for _ in range(10):
        breaker.note("a", "webhook", is_dead=True, now_s=0.0)
    for _ in range(50):
        assert not breaker.note("a", "webhook", is_dead=True, now_s=1.0)
    assert breaker.paused_for_s("a", "webhook", 1.0) == 29.0


def test_it_keeps_a_second_and_not_each_outcome() -> None:
    breaker = Breaker(POLICY)
    for n in range(100_000):
        breaker.note("a", "webhook", is_dead=False, now_s=n / 1000)
    [pair] = breaker._pairs.values()
    assert len(pair.seconds) <= 62
    assert pair.count == 61_000


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200))
def test_it_agrees_with_a_plain_count(steps: list[tuple[float, bool]]) -> None:
    breaker, now, seen, until = Breaker(POLICY), 0.0, [], 0.0
    for step, is_dead in steps:
        now += step
        first = int(now - POLICY.window_s)
        seen = [(at, dead) for at, dead in [*seen, (now, is_dead)] if int(at) >= first]
        dead = sum(dead for _, dead in seen)
        expected = now >= until and dead >= POLICY.min_dead and dead > POLICY.share * len(seen)
        assert breaker.note("a", "c", is_dead=is_dead, now_s=now) == expected
        if expected:
            until, seen = now + POLICY.pause_s, []
