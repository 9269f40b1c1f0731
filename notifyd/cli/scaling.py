"""How many processes of a role would do: decided from what they did at their busiest. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

#: A process is one thread: at this share of a core its queues are short (docs/reference/stress.md).
CPU_SHARE: Final = 0.6
#: Push connections of a process; what its autoscaler adds processes at.
CONNECTIONS: Final = 10_000
#: Nothing is taken away from a role that is this late, in seconds: at 30 its autoscaler adds to it ...
LAG_S: Final = 10.0
#: ... or whose event loop was this late.
LOOP_LAG_S: Final = 0.5
#: Who was seen for a shorter time, in minutes, is not known.
SEEN_MIN: Final = 15
#: One may end at any moment.
LEAST: Final = 2


@dataclass(frozen=True, slots=True)
class Load:
    """What a role did. `replicas` run now, `ready` of them are ready.

    `cpu` cores were used by all together at the busiest moment (`None`: nobody knows), and there were so many
    `connections` at the most, in the `seen_min` minutes that it was seen. `lag_s` and `loop_lag_s` are the
    most of the last quarter of an hour, in seconds.
    """

    role: str
    replicas: int
    ready: int
    cpu: float | None = None
    connections: float = 0.0
    lag_s: float = 0.0
    loop_lag_s: float = 0.0
    seen_min: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process is to carry at the most, and how few processes of a role there may be."""

    cpu_share: float = CPU_SHARE
    connections: int = CONNECTIONS
    least: int = LEAST


@dataclass(frozen=True, slots=True)
class Advice:
    """`replicas` are safe; as many as now where none can go. `reason` is for people."""

    role: str
    replicas: int
    reason: str


def advise(load: Load, limits: Limits) -> Advice:
    """Say how many processes would carry the busiest moment with one of them missing; never more than now."""
    trouble = _find_trouble(load)
    if trouble or load.cpu is None or load.seen_min < SEEN_MIN:
        unknown = f"not now: it was seen for {load.seen_min} min only"
        return Advice(load.role, load.replicas, trouble or unknown)
    if load.role == "sweep":
        wanted, why = limits.least, "one leads, the others stand by"
    else:
        by_cpu = math.ceil(load.cpu / limits.cpu_share)
        by_connections = math.ceil(load.connections / limits.connections)
        busiest = f"{load.cpu:.2f} cores" + (
            f" and {load.connections:.0f} connections" if load.connections else ""
        )
        wanted = max(by_cpu, by_connections) + 1
        why = f"{busiest} at the busiest of {_told(load.seen_min)}, and one process may be missing"
    safe = max(wanted, limits.least)
    if safe >= load.replicas:
        return Advice(load.role, load.replicas, f"none can go: {why}")
    return Advice(load.role, safe, why)


def _told(minutes: int) -> str:
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def _find_trouble(load: Load) -> str:
    if load.ready < load.replicas:
        return f"not now: {load.replicas - load.ready} of {load.replicas} processes are not ready"
    if load.lag_s > LAG_S:
        return f"not now: a partition was {load.lag_s:.0f} s late within a quarter of an hour"
    if load.loop_lag_s > LOOP_LAG_S:
        return f"not now: an event loop was {load.loop_lag_s:.1f} s late within a quarter of an hour"
    return ""
