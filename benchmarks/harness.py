"""Runs variants in turn, round by round, and prints ratios: machines are noisy, neighbours in time less so.

A variant is a process of its own that prints one number on its last line. Within a round
the variants run one after the other, in an order that moves on each round; a ratio is
formed within its round, and the median and spread over the rounds are what is printed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


class Unavailable(Exception):
    """A variant cannot run on this machine, and why."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """`over` divided by `anchor` (None: `over` itself), and what it should reach."""

    name: str
    over: str
    anchor: str | None
    reach: float
    sense: Literal["at least", "at most"] = "at least"

    def is_reached(self, median: float) -> bool:
        """Whether the median keeps the promise."""
        return median >= self.reach if self.sense == "at least" else median <= self.reach


@dataclass(frozen=True, slots=True)
class Variant:
    """A command whose last line of output is its figure, in `unit`."""

    name: str
    command: Sequence[str]
    unit: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Median, least and most of a series."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise a series."""
        return cls(statistics.median(values), min(values), max(values))


def run_variant(variant: Variant, *, timeout_s: float = 600.0) -> float:
    """Run one variant once and return its figure; raises `RuntimeError` with its last words."""
    done = subprocess.run(variant.command, capture_output=True, text=True, timeout=timeout_s, check=False)
    lines = done.stdout.split()
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{variant.name} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
    return float(lines[-1])


def compare(
    title: str,
    variants: Sequence[Variant],
    ratios: Sequence[Ratio],
    *,
    rounds: int,
) -> dict[str, object]:
    """Run all variants for `rounds` rounds; return figures and ratios, and tell how it goes."""
    by_name = {variant.name: variant for variant in variants}
    return gather(
        title,
        list(by_name),
        lambda name: {name: run_variant(by_name[name])},
        ratios,
        rounds=rounds,
        unit=variants[0].unit,
    )


def gather(
    title: str,
    names: Sequence[str],
    run: Callable[[str], Mapping[str, float]],
    ratios: Sequence[Ratio],
    *,
    rounds: int,
    unit: str | Mapping[str, str],
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, object]:
    """Have `run` measure each of `names` in turn, for `rounds` rounds; it returns figures by name, in `unit`
    (or in the unit that `unit` has for the figure). What is `Unavailable` is left out, with the reason.
    """
    figures: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    for number in range(rounds):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            if name in skipped:
                continue
            try:
                found = run(name)
            except Unavailable as error:
                skipped[name] = str(error)
                tell(f"  {title}: {name} is left out: {error}")
                continue
            for key, value in found.items():
                figures.setdefault(key, []).append(value)
                tell(f"  {title}, round {number + 1} of {rounds}: {key} {_short(value)} {_unit(unit, key)}")
    return {
        "benchmark": title,
        "rounds": rounds,
        "figures": {
            key: {"unit": _unit(unit, key), **_plain(Figure.of(values))} for key, values in figures.items()
        },
        "ratios": [
            _row(ratio, figures) for ratio in ratios if {ratio.over, ratio.anchor or ratio.over} <= {*figures}
        ],
        "skipped": skipped,
    }


def _row(ratio: Ratio, figures: Mapping[str, Sequence[float]]) -> dict[str, object]:
    anchors = figures[ratio.anchor] if ratio.anchor is not None else [1.0] * len(figures[ratio.over])
    figure = Figure.of([over / anchor for over, anchor in zip(figures[ratio.over], anchors, strict=True)])
    return {
        "name": ratio.name,
        "median": round(figure.median, 3),
        "least": round(figure.least, 3),
        "most": round(figure.most, 3),
        "wanted": f"{ratio.sense} {ratio.reach:g}",
        "reached": ratio.is_reached(figure.median),
    }


def _unit(unit: str | Mapping[str, str], key: str) -> str:
    return unit if isinstance(unit, str) else unit.get(key, "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(figure: Figure) -> dict[str, float]:
    values = {"median": figure.median, "least": figure.least, "most": figure.most}
    return {
        key: round(value) if abs(figure.median) >= 100 else round(value, 2) for key, value in values.items()
    }


def show(result: Mapping[str, object]) -> str:
    """Lay out a result for people."""
    lines = [f"{result['benchmark']} ({result['rounds']} rounds, median [least .. most])"]
    figures: Mapping[str, Mapping[str, object]] = result["figures"]  # type: ignore[assignment]
    for name, figure in figures.items():
        lines.append(
            f"  {name:<28} {figure['median']:>12,} {figure['unit']} "
            f"[{figure['least']:,} .. {figure['most']:,}]"
        )
    skipped: Mapping[str, str] = result.get("skipped", {})  # type: ignore[assignment]
    lines += [f"  {name:<28} left out: {reason}" for name, reason in skipped.items()]
    ratios: Sequence[Mapping[str, object]] = result["ratios"]  # type: ignore[assignment]
    for row in ratios:
        verdict = "reached" if row["reached"] else "NOT reached"
        lines.append(
            f"  {row['name']:<44} {row['median']:>8} [{row['least']} .. {row['most']}], "
            f"wanted {row['wanted']}: {verdict}"
        )
    return "\n".join(lines)


def dump(result: Mapping[str, object]) -> str:
    """One line of JSON."""
    return json.dumps(result, separators=(",", ":"))
