"""The page of a stress report: knees, and what follows from them for the autoscalers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fixtures.manifests import of_kind

_WHAT: Final = {
    "persist": "messages to one user each, from Kafka to committed rows",
    "deliver": "messages to one webhook each, receivers on this machine",
    "ws": "messages to one user each, 500 connected devices that acknowledge",
    "api": "`POST /v1/messages` of one message, half over new connections",
}
#: A process may be this busy, so that a burst or one missing process does not bring it to its knee.
_HEADROOM: Final = 0.6
#: A machine this busy is full: then the knee is not the process's own.
_FULL: Final = 0.95
#: After which the partitions of a dead member are served again.
_SESSION_S: Final = 10

_HEAD: Final = """# Stress report

How much one process of each role carries, written by `make stress`. Broker, database, load and clients
share the machine with it, so a knee is also where the machine is full: take the figures of your own.
"""
_KNEES: Final = """
| role | what | knee, messages/s | cores | CPU a message, us | memory, MiB | start to ready, s | machine |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
_STEPS: Final = """
The knee is the highest rate after which no record is late by more than a second (`api`: with a 99th
percentile of answers below that). The rate is doubled until that fails, then the gap is halved twice. "At
least": the backend of the trial could not send faster; the second number is what the process then worked off
a second while nobody sent. `machine`: mean use of all its cores, by whatever ran, and threads that wanted to
run.

## Steps

| role | messages/s | keeps up | cores | late, s | event loop late, s | memory, MiB | machine |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
_FOLLOWS: Final = f"""
## What follows for the autoscalers

A process is to be at {_HEADROOM:.0%} of its knee at the most: a burst does not find it full, and the others
carry on when one is missing. Where the machine was full before the process, which is one thread, a core
counts in the place of the knee. The last column is what `k8s/overlays/prod` has.

| role | on | follows | in the manifests |
| --- | --- | --- | --- |"""

_VERDICTS: Final = {
    "later": "put off, for `deliver` has not come to them",
    "stored": "pushes to who is not there, stored",
    "resent": "half of them fallbacks, put on the resend topic, half pushes, stored",
}
_SWEEP: Final = """
## The sweep

It takes no messages, and one process leads: so this is how many deliveries past their deadline it works off
a second when 10,000 or 20,000 wait for it, without the limit of `NOTIFYD_SWEEP_RESENDS_PER_S` (50).

| deliveries | a second | cores | CPU each, us | memory, MiB | machine |
| --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True, slots=True)
class Step:
    """One rate (messages a second) for a while, and how the process did.

    `cpu` is cores; `late_s` the oldest record's wait at the end, or the 99th percentile of answers.
    `is_senders_limit`: the load could not be made, so the knee is beyond it. `machine`: see `LoadMeter.over`.
    """

    rate: float
    keeps_up: bool
    is_senders_limit: bool
    cpu: float
    late_s: float
    loop_lag_s: float
    memory_mib: int
    machine: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Knee:
    """What was found of one role; `ready_s` from its start to ready."""

    role: str
    ready_s: float
    steps: tuple[Step, ...]
    #: Messages a second that it worked off while nobody sent; 0 where that was not tried.
    backlog_per_s: float = 0.0

    @property
    def best(self) -> Step | None:
        """The highest rate that it kept up with."""
        return max((one for one in self.steps if one.keeps_up), key=lambda one: one.rate, default=None)

    @property
    def is_at_least(self) -> bool:
        """Whether more than that was not tried, because the load could not be made."""
        return not any(not one.keeps_up and not one.is_senders_limit for one in self.steps)


@dataclass(frozen=True, slots=True)
class Swept:
    """Deliveries of one verdict that a process of `sweep` worked off a second; the rest as in `Step`."""

    verdict: str
    per_s: float
    cpu: float
    memory_mib: int
    machine: Mapping[str, float] = field(default_factory=dict)


def sweep_part(page: str) -> str:
    """Return what a page says of the sweep, if it does, to its end."""
    _, begin, rest = page.partition(_SWEEP.splitlines(keepends=True)[1])
    return f"\n{begin}{rest}" if begin else ""


def render_sweep(found: Sequence[Swept]) -> str:
    """Return the part of the page that is about the sweep."""
    rows = [
        f"| {_VERDICTS[one.verdict]} | {one.per_s:.0f} | {one.cpu} | {one.cpu / one.per_s * 1e6:.0f} | "
        f"{one.memory_mib} | {_machine(one)} |"
        for one in found
    ]
    return "\n".join([_SWEEP, *rows]) + "\n"


def render(knees: Sequence[Knee]) -> str:
    """Return the page."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    parts = [
        _HEAD,
        f"Machine: {machine}.",
        _KNEES,
        *(_row(knee) for knee in knees),
        _STEPS,
        *(_step_row(knee.role, step) for knee in knees for step in knee.steps),
        _FOLLOWS,
        *(_follow_row(knee, knee.best) for knee in knees if knee.best is not None),
    ]
    return "\n".join(parts) + "\n"


def _row(knee: Knee) -> str:
    best = knee.best
    if best is None:
        least = min(step.rate for step in knee.steps)
        return f"| `{knee.role}` | {_WHAT[knee.role]} | below {least:.0f} | | | | {knee.ready_s} | |"
    prefix = "at least " if knee.is_at_least else ""
    rest = f"; {knee.backlog_per_s:.0f} off a backlog" if knee.backlog_per_s else ""
    return (
        f"| `{knee.role}` | {_WHAT[knee.role]} | {prefix}{best.rate:.0f}{rest} | {best.cpu} | "
        f"{best.cpu / best.rate * 1e6:.0f} | {best.memory_mib} | {knee.ready_s} | {_machine(best)} |"
    )


def _step_row(role: str, step: Step) -> str:
    said = "yes" if step.keeps_up else ("not sent" if step.is_senders_limit else "no")
    return (
        f"| `{role}` | {step.rate:.0f} | {said} | {step.cpu} | {step.late_s} | {step.loop_lag_s} | "
        f"{step.memory_mib} | {_machine(step)} |"
    )


def _machine(step: Step | Swept) -> str:
    if not step.machine:
        return ""
    return f"{step.machine['cpu']:.0%}, {step.machine['run_queue']:.0f} threads"


def _follow_row(knee: Knee, best: Step) -> str:
    rate, cpu = (knee.backlog_per_s or best.rate) * _HEADROOM, best.cpu * _HEADROOM
    by = "its knee"
    if best.machine["cpu"] > _FULL:
        # The machine was full before the process: a process is one thread, so one core is its own limit.
        rate, cpu = best.rate / best.cpu * _HEADROOM, _HEADROOM
        by = "its CPU a message"
    match knee.role:
        case "api":
            kind, what = "CPU", f"{cpu * 1000:.0f}m a pod, by {by} {rate:.0f} requests/s"
        case "ws":
            kind = "connections"
            what = (
                f"10,000: 4.4 s until all of a dead pod are back ([scale](../explanation/scale.md)); by {by} "
                f"{rate:.0f} pushes/s a pod at the most, at {cpu:.2f} cores"
            )
        case _:
            kind = "lag"
            what = (
                f"{_lag_s(knee)} s: twice a start ({knee.ready_s:g} s) and the session of a dead member "
                f"({_SESSION_S} s), so that neither adds pods; by {by} a pod carries {rate:.0f} messages/s"
            )
    return f"| `{knee.role}` | {kind} | {what} | {_in_manifests(knee.role)} |"


def _lag_s(knee: Knee) -> int:
    """Return twice what the longest ordinary pause lasts, to five seconds."""
    return round((knee.ready_s + _SESSION_S) * 2 / 5) * 5


def _in_manifests(role: str) -> str:
    (scaler,) = (
        one
        for one in of_kind("prod", "HorizontalPodAutoscaler")
        if one["metadata"]["name"] == f"notifyd-{role}"
    )
    spec = scaler["spec"]
    (metric,) = spec["metrics"]
    target: dict[str, Any] = metric[metric["type"].lower()]["target"]
    value = next(value for name, value in target.items() if name != "type")
    return f"{value}, {spec['minReplicas']} to {spec['maxReplicas']} pods"
