"""The stress report: which rate is the knee, and what is said of it."""

from __future__ import annotations

import pytest

from tests.storm.stress_report import Knee, Step, Swept, render, render_sweep, sweep_part


def _step(rate: float, *, keeps_up: bool = True, is_senders_limit: bool = False, cpu: float = 0.5) -> Step:
    return Step(rate, keeps_up, is_senders_limit, cpu, 0.1, 0.02, 100, {"cpu": 0.9, "run_queue": 4.0})


FOUND = Knee("api", 2.0, (_step(100), _step(200), _step(400, keeps_up=False), _step(300)))
NOT_SENT = Knee("persist", 2.5, (_step(100), _step(200, keeps_up=False, is_senders_limit=True)), 900.0)


def test_the_knee_is_the_highest_rate_that_it_kept_up_with() -> None:
    assert FOUND.best is not None
    assert (FOUND.best.rate, FOUND.is_at_least) == (300, False)
    assert NOT_SENT.best is not None
    assert (NOT_SENT.best.rate, NOT_SENT.is_at_least) == (100, True)
    assert Knee("api", 2.0, (_step(50, keeps_up=False),)).best is None


@pytest.mark.parametrize(
    "told",
    [
        "| 300 | 0.5 | 1667 | 100 | 2.0 | 90%, 4 threads |",
        "| at least 100; 900 off a backlog | 0.5 | 5000 |",
        "| CPU | 300m a pod, by its knee 180 requests/s |",
        "| lag | 25 s: twice a start (2.5 s) and the session of a dead member (10 s)",
        "by its knee a pod carries 540 messages/s",
    ],
)
def test_the_page_says_what_was_found_and_what_follows(told: str) -> None:
    assert told in render([FOUND, NOT_SENT])


def test_where_the_machine_was_full_first_a_core_is_the_limit() -> None:
    full = Step(1000, True, False, 0.5, 0.1, 0.02, 100, {"cpu": 1.0, "run_queue": 9.0})
    assert "| CPU | 600m a pod, by its CPU a message 1200 requests/s |" in render([Knee("api", 2.0, (full,))])


def test_what_the_page_says_of_the_sweep_can_be_taken_off_and_put_there_anew() -> None:
    part = render_sweep([Swept("resent", 1000.0, 0.5, 90, {"cpu": 0.9, "run_queue": 4.0})])
    assert "| 1000 | 0.5 | 500 | 90 | 90%, 4 threads |" in part
    page = render([FOUND])
    assert sweep_part(page) == ""
    assert sweep_part(page + part) == part
    assert (page + part).removesuffix(sweep_part(page + part)) == page
