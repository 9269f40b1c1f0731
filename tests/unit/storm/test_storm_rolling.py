"""What `make rolling` reads out of the manifests, and how it judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.storm.check import Facts, Sent
from tests.storm.manifests import read_rollout
from tests.storm.push_check import Life, Lives
from tests.storm.rolling import ROLES
from tests.storm.rolling_check import count_rebalances, push_delays, read_refusals, tries_after


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_has_time_to_end_between_its_signal_and_its_kill(role: str) -> None:
    rollout = read_rollout(role)
    grace_s = float(rollout.env["NOTIFYD_GRACE_S"])
    assert rollout.grace_s >= rollout.pre_stop_s + grace_s


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("replicas", [2, 3, 10])
def test_a_roll_begins_with_one_more_and_never_with_one_less(role: str, replicas: int) -> None:
    rollout = read_rollout(role)
    assert rollout.surge(replicas) >= 1
    assert rollout.unavailable(replicas) == 0


def test_assignments_of_one_moment_are_one_rebalance(tmp_path: Path) -> None:
    times = {"persist-0": ["10:00:00.1", "10:00:20.0"], "persist-1": ["10:00:00.9"], "ws-0": ["10:00:05.0"]}
    for name, found in times.items():
        entries = [
            {
                "event": "partitions_assigned",
                "role": name[:-2],
                "timestamp": f"2026-11-28T{at}Z",
            }
            for at in found
        ]
        (tmp_path / f"{name}.log").write_text("".join(f"{json.dumps(one)}\n" for one in entries))
    assert count_rebalances(tmp_path) == {"persist": {"assignments": 3, "rebalances": 2}}


def test_what_clients_met_is_counted_by_what_and_where(tmp_path: Path) -> None:
    (tmp_path / "balancer.journal").write_text("open 1 api 99\nrefused 2 api 99\nnone 3 ws\n")
    (tmp_path / "call.journal").write_text("ok id 1 2 3 0:1 1\nbad 4 POST 503 kept\nbad 5 POST 503 kept\n")
    assert read_refusals(tmp_path) == Counter(
        {"refused at api": 1, "none at ws": 1, "POST got 503 on a kept connection": 2}
    )


def test_a_push_is_as_late_as_its_device_had_it() -> None:
    facts = Facts(sent={"a": Sent("a", ("listener-1",), ("ws",), handed_ms=1000)})
    lives = Lives({"listener-1~2": Life(received={"a": 1040, "unknown": 1}), "listener-2": Life()})
    assert push_delays(facts, lives) == [(1000, 40)]


def test_reconnects_are_counted_by_the_second_from_the_signal_on() -> None:
    lives = Lives(
        {
            "listener-1": Life(states=[(500, "connecting"), (1200, "connecting"), (1300, "open")]),
            "listener-2": Life(states=[(3100, "connecting"), (9000, "connecting")]),
        }
    )
    assert tries_after(lives, 1000, 2.0) == [1, 0, 1]
