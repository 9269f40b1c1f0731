"""Which fault comes when: drawn from a seed alone, so that a storm can be had again. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["kill", "term", "freeze", "broker", "database"]

FREEZE_S: Final = 10.0
BROKER_AWAY_S: Final = 20.0
DATABASE_AWAY_S: Final = 30.0
#: A killed or ended process comes back after this time, as an orchestrator would have it.
BACK_S: Final = (0.0, 2.0)
#: One outage of each kind that is asked for in so much of the storm.
_OUTAGE_EVERY_S: Final = 120.0
#: Where in such a stretch an outage begins, as shares of it: the two kinds do not meet.
_BROKER_FROM: Final = (0.05, 0.2)
_DATABASE_FROM: Final = (0.5, 0.65)

ROLE_KINDS: Final[tuple[Kind, ...]] = ("kill", "term", "freeze")
_SHARES: Final = {"kill": 5, "term": 3, "freeze": 2}

_MEANINGS: Final = {
    "kill": "kill -9, back after {:.1f} s",
    "term": "SIGTERM, back {:.1f} s after its end",
    "freeze": "SIGSTOP, SIGCONT after {:.1f} s",
    "broker": "kill -9, back after {:.1f} s",
    "database": "stopped, back after {:.1f} s",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_s` seconds after the start of the storm `target` gets this; it lasts `lasts_s`."""

    at_s: float
    kind: Kind
    target: str
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.target:<10}  {_MEANINGS[self.kind].format(self.lasts_s)}"


def draw_schedule(
    seed: int,
    storm_s: float,
    targets: Sequence[str],
    *,
    every_s: tuple[float, float] = (1.0, 3.0),
    back_s: tuple[float, float] = BACK_S,
    kinds: Sequence[Kind] = ROLE_KINDS,
    has_broker_faults: bool = False,
    has_database_faults: bool = False,
) -> tuple[Fault, ...]:
    """Return the faults of a storm in their order.

    Every `every_s` seconds one process gets one of `kinds`: it may be starting, ending or working
    at that moment, but a frozen one is left alone until it goes on.
    """
    chance = random.Random(f"storm {seed}")
    faults: list[Fault] = []
    frozen_until = dict.fromkeys(targets, 0.0)
    at_s = chance.uniform(*every_s)
    while at_s < storm_s and targets and kinds:
        free = [name for name in targets if frozen_until[name] <= at_s]
        if free:
            target = chance.choice(free)
            (kind,) = chance.choices(list(kinds), [_SHARES[kind] for kind in kinds])
            lasts_s = FREEZE_S if kind == "freeze" else chance.uniform(*back_s)
            if kind == "freeze":
                frozen_until[target] = at_s + FREEZE_S
            faults.append(Fault(round(at_s, 2), kind, target, round(lasts_s, 2)))
        at_s += chance.uniform(*every_s)
    # Chances of their own: outages leave the faults of the processes as they are without them.
    if has_broker_faults:
        faults += _outages(seed, storm_s, "broker", BROKER_AWAY_S, _BROKER_FROM)
    if has_database_faults:
        faults += _outages(seed, storm_s, "database", DATABASE_AWAY_S, _DATABASE_FROM)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _outages(
    seed: int, storm_s: float, kind: Kind, lasts_s: float, where: tuple[float, float]
) -> list[Fault]:
    chance = random.Random(f"storm {seed} {kind}")
    number = max(1, int(storm_s // _OUTAGE_EVERY_S))
    stretch_s = storm_s / number
    return [
        Fault(round((one + chance.uniform(*where)) * stretch_s, 2), kind, kind, lasts_s)
        for one in range(number)
    ]
