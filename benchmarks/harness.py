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


@dataclass(frozen=True, slots=True)
class Ratio:
    """`over` divided by `anchor`, and what it should reach."""

    name: str
    over: str
    anchor: str
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
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, object]:
    """Run all variants for `rounds` rounds; return figures and ratios, and tell how it goes."""
    figures: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        shift = number % len(variants)
        for variant in [*variants[shift:], *variants[:shift]]:
            value = run_variant(variant)
            figures[variant.name].append(value)
            tell(f"  {title}, round {number + 1} of {rounds}: {variant.name} {value:,.0f} {variant.unit}")
    rows = []
    for ratio in ratios:
        pairs = zip(figures[ratio.over], figures[ratio.anchor], strict=True)
        figure = Figure.of([over / anchor for over, anchor in pairs])
        rows.append(
            {
                "name": ratio.name,
                "median": round(figure.median, 3),
                "least": round(figure.least, 3),
                "most": round(figure.most, 3),
                "wanted": f"{ratio.sense} {ratio.reach:g}",
                "reached": ratio.is_reached(figure.median),
            }
        )
    return {
        "benchmark": title,
        "rounds": rounds,
        "figures": {
            variant.name: {"unit": variant.unit, **_plain(Figure.of(figures[variant.name]))}
            for variant in variants
        },
        "ratios": rows,
    }


def _plain(figure: Figure) -> dict[str, float]:
    return {"median": round(figure.median), "least": round(figure.least), "most": round(figure.most)}


def show(result: Mapping[str, object]) -> str:
    """Lay out a result for people."""
    lines = [f"{result['benchmark']} ({result['rounds']} rounds, median [least .. most])"]
    figures: Mapping[str, Mapping[str, object]] = result["figures"]  # type: ignore[assignment]
    for name, figure in figures.items():
        lines.append(
            f"  {name:<28} {figure['median']:>12,} {figure['unit']} "
            f"[{figure['least']:,} .. {figure['most']:,}]"
        )
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
