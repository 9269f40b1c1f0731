"""What a step says of one delivery: done, try again, dead, or not for it. Values, no behaviour.

`gone` are the addresses of the contact, by index, of which the other side said that they are gone for good.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The other side has it. `detail` is for the trace, e.g. `HTTP 204`."""

    detail: str = ""
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """It may work later: after `after_s` seconds where the peer said so, else by policy.

    `counts` is false where nothing was attempted (a limit was reached, a breaker is open).
    """

    reason: str
    after_s: float | None = None
    detail: str = ""
    counts: bool = True
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dead:
    """It cannot work. `reason` is snake_case and stable, `detail` is for people."""

    reason: str
    detail: str = ""
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing to do here, and that is fine: muted, no address, meant for another role."""

    reason: str


Outcome = Done | Retry | Dead | Skip
