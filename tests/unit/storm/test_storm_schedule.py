"""A storm can be had again from its seed."""

from __future__ import annotations

import itertools

import pytest

from tests.storm.messages import plan_message
from tests.storm.schedule import BROKER_AWAY_S, DATABASE_AWAY_S, FREEZE_S, draw_schedule

TARGETS = ["persist-0", "persist-1", "deliver-0", "ws-0"]


def test_the_same_seed_draws_the_same_schedule() -> None:
    assert draw_schedule(7, 120, TARGETS) == draw_schedule(7, 120, TARGETS)


def test_another_seed_draws_another_schedule() -> None:
    assert draw_schedule(7, 120, TARGETS) != draw_schedule(8, 120, TARGETS)


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_in_order_every_one_to_three_seconds_and_of_every_kind(seed: int) -> None:
    faults = draw_schedule(seed, 600, TARGETS)
    steps = [after.at_s - before.at_s for before, after in itertools.pairwise(faults)]
    assert min(steps) > 0.98
    # Where every target is frozen nothing comes for a while.
    assert sorted(steps)[len(steps) // 2] < 3.02
    assert {fault.kind for fault in faults} == {"kill", "term", "freeze"}
    assert {fault.target for fault in faults} == set(TARGETS)
    assert all(0 < fault.at_s < 600 for fault in faults)


@pytest.mark.parametrize("seed", range(20))
def test_a_frozen_process_is_left_alone_until_it_goes_on(seed: int) -> None:
    faults = draw_schedule(seed, 600, TARGETS)
    for freeze in (fault for fault in faults if fault.kind == "freeze"):
        during = [
            fault
            for fault in faults
            if fault.target == freeze.target and freeze.at_s < fault.at_s < freeze.at_s + FREEZE_S - 0.01
        ]
        assert during == []


def test_outages_leave_the_faults_of_the_processes_as_they_are() -> None:
    calm = draw_schedule(3, 240, TARGETS)
    wild = draw_schedule(3, 240, TARGETS, has_broker_faults=True, has_database_faults=True)
    assert tuple(fault for fault in wild if fault.kind not in {"broker", "database"}) == calm


@pytest.mark.parametrize("seed", range(20))
def test_broker_and_database_are_not_away_at_once_and_are_back_before_the_end(seed: int) -> None:
    faults = draw_schedule(seed, 240, [], has_broker_faults=True, has_database_faults=True)
    assert [fault.kind for fault in faults] == ["broker", "database"] * 2
    assert {fault.lasts_s for fault in faults} == {BROKER_AWAY_S, DATABASE_AWAY_S}
    for before, after in itertools.pairwise(faults):
        assert before.at_s + before.lasts_s < after.at_s
    assert faults[-1].at_s + faults[-1].lasts_s < 240


def test_chosen_kinds_alone_are_drawn() -> None:
    faults = draw_schedule(1, 300, TARGETS, kinds=["term"], every_s=(5, 5))
    assert {fault.kind for fault in faults} == {"term"}
    assert len(faults) == 59
    assert draw_schedule(1, 300, TARGETS, kinds=[]) == ()


def test_message_n_is_the_same_in_each_storm_of_a_seed() -> None:
    first = [plan_message(5, number, 300) for number in range(500)]
    assert first == [plan_message(5, number, 300) for number in range(500)]
    assert first != [plan_message(6, number, 300) for number in range(500)]
    assert {plan.channels for plan in first} == {("webhook",), ("ws",), ("ws", "webhook")}
    assert {plan_message(5, number, 0).channels for number in range(100)} == {("webhook",)}
