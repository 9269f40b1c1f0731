"""What a roll is judged by: nothing lost, nobody refused, devices spread, push in time."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.storm.check import Facts, check
from tests.storm.cluster import role_of
from tests.storm.collect import collect_now
from tests.storm.deployment import Pod
from tests.storm.devices import count_users, user_of
from tests.storm.load import LoadMeter
from tests.storm.push_check import Lives
from tests.storm.records import lines_of
from tests.storm.trial import Trial

#: How much slower push may be while everything is replaced.
SLOWER: Final = 3.0
#: Assignments this close together belong to one rebalance.
_WAVE_S: Final = 1.5
#: Seconds are counts of chance: a fifth more than the window implies, and three standard deviations.
_MORE: Final = 1.2


@dataclass(frozen=True, slots=True)
class Roll:
    """A stretch of time in seconds of the trial's clock."""

    name: str
    from_s: float
    to_s: float


class RollTrial(Trial):
    """Push and webhooks; filled with what the roll itself saw before `conclude` judges."""

    plan = "all"
    roles: Sequence[str] = ("deliver", "persist")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began_ms = 0.0
        self.rolls: list[Roll] = []
        self.load: LoadMeter | None = None
        self.gone: list[Pod] = []
        self.fewest_ready: Mapping[str, int] = {}

    def judge(self) -> None:
        """Judge devices, webhooks, clients, and times."""
        super().judge()
        logs, found, lives = self.cluster.logs, self.found, self.lives
        url = self.cluster.settings.database_url
        assert url is not None
        facts = collect_now(logs, url.get_secret_value(), seed=self.seed, listeners=count_users(self.devices))
        found.losses += check(facts).losses
        found.figures["webhook_calls_repeated"] = facts.good_calls.total() - len(facts.good_calls)
        refused = read_refusals(logs)
        found.figures["refused"] = dict(refused)
        found.problems += [f"{number} times {what}" for what, number in refused.items()]
        found.figures["fewest_ready"] = dict(self.fewest_ready)
        found.problems += [f"no {role} was ready" for role, number in self.fewest_ready.items() if not number]
        found.figures["rebalances"] = count_rebalances(logs)
        pushes = push_delays(facts, lives)
        waits = {one.name: self._told_of(one, pushes) for one in self.rolls}
        found.figures |= {f"during {name}": told for name, told in waits.items()}
        before, during = waits["before"]["push_p99_ms"], waits["roll"]["push_p99_ms"]
        found.figures["p99_ratio"] = round(during / max(before, 1.0), 2)
        if during > SLOWER * before:
            found.problems.append(f"p99 of push was {during:g} ms in the roll and {before:g} ms before")
        self._judge_spread(lives)

    def _told_of(self, one: Roll, pushes: Sequence[tuple[float, float]]) -> dict[str, Any]:
        from_ms, to_ms = (self.began_ms + at_s * 1000 for at_s in (one.from_s, one.to_s))
        waits = sorted(wait for handed_ms, wait in pushes if from_ms <= handed_ms < to_ms)
        told: dict[str, Any] = {"seconds": round(one.to_s - one.from_s, 1), "pushes": len(waits)}
        told["push_p50_ms"] = waits[len(waits) // 2] if waits else -1.0
        told["push_p99_ms"] = waits[int(len(waits) * 0.99)] if waits else -1.0
        told["push_max_ms"] = waits[-1] if waits else -1.0
        return told | (self.load.over(one.from_s, one.to_s) if self.load else {})

    def _judge_spread(self, lives: Lives) -> None:
        spreads = {}
        for pod in self.gone:
            if role_of(pod.name) != "ws":
                continue
            (drain,) = pod.process.log_entries("push_drain")
            window_s, connections = float(drain["window_s"]), int(drain["connections"])
            tried = tries_after(lives, pod.signalled_ms, window_s)
            spreads[pod.name] = {"window_s": window_s, "connections": connections, "tries_per_s": tried}
            implied = connections / max(1.0, window_s)
            most = implied * _MORE + 3 * math.sqrt(implied)
            if max(tried, default=0) > most:
                self.found.problems.append(
                    f"{max(tried)} reconnects in a second after {pod.name}; {most:.0f} may be"
                )
        self.found.figures["reconnects"] = spreads


def push_delays(facts: Facts, lives: Lives) -> list[tuple[float, float]]:
    """Return (handed over at, until a device had it) of each push, in ms; the first is since 1970."""
    return [
        (sent.handed_ms, at_ms - sent.handed_ms)
        for device, life in lives.devices.items()
        for message_id, at_ms in life.received.items()
        if (sent := facts.sent.get(message_id)) is not None and user_of(device) in sent.users
    ]


def tries_after(lives: Lives, began_ms: float, window_s: float) -> list[int]:
    """Count by second which devices tried to connect from `began_ms` until after the window."""
    end_ms = began_ms + (window_s + 2) * 1000
    counts: Counter[int] = Counter()
    for life in lives.devices.values():
        for at_ms, state in life.states:
            if state == "connecting" and began_ms <= at_ms < end_ms:
                counts[int((at_ms - began_ms) / 1000)] += 1
    return [counts[second] for second in range(max(counts, default=-1) + 1)]


def read_refusals(logs: Path) -> Counter[str]:
    """Count what clients met that they should not: refusals, resets, answers of 5xx."""
    found: Counter[str] = Counter()
    for kind, *parts in lines_of(logs / "balancer.journal"):
        if kind in {"refused", "none", "reset"}:
            found[f"{kind} at {parts[1]}"] += 1
    for kind, *parts in lines_of(logs / "call.journal"):
        if kind == "bad":
            found[f"{parts[1]} got {parts[2]} on a {parts[3]} connection"] += 1
    return found


def count_rebalances(logs: Path) -> dict[str, dict[str, int]]:
    """Count by role the assignments that processes got, and the rebalances that these were."""
    times: dict[str, list[float]] = defaultdict(list)
    for path in logs.glob("*-*.log"):
        for entry in _entries(path):
            if entry.get("event") == "partitions_assigned":
                at = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00"))
                times[str(entry["role"])].append(at.timestamp())
    return {
        role: {"assignments": len(found), "rebalances": _waves(sorted(found))}
        for role, found in sorted(times.items())
        if role != "ws"  # each of its processes is a group of its own
    }


def _waves(times: Sequence[float]) -> int:
    return sum(1 for number, at in enumerate(times) if not number or at - times[number - 1] > _WAVE_S)


def _entries(path: Path) -> Iterable[Mapping[str, Any]]:
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue
