"""What a storm came to: a table for people, one JSON object for machines."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.storm.groups import Standstill
from tests.storm.schedule import Fault
from tests.storm.storm import Options, Outcome

#: What is printed of each long list.
_MOST = 15
#: A fault this shortly before another of the same group makes one standstill of two.
_NEAR_S = 12.0


def as_json(options: Options, schedule: Sequence[Fault], outcome: Outcome) -> dict[str, Any]:
    """Return everything, losses cut to the first thousand."""
    losses = outcome.verdict.losses
    return {
        "ok": outcome.is_good,
        "seed": options.seed,
        "messages": options.messages,
        "storm_s": options.storm_s,
        "per_s": round(options.per_s, 1),
        "faults": dict(Counter(fault.kind for fault in schedule)),
        "load_s": round(outcome.load_s, 1),
        "settle_s": round(outcome.settle_s, 1),
        **outcome.verdict.figures,
        "losses": dict(Counter(loss.kind for loss in losses)),
        "lost": [str(loss) for loss in losses[:1000]],
        "missed_pushes": [str(loss) for loss in outcome.verdict.missed_pushes[:100]],
        "dead_letters": dict(outcome.dead),
        "lag": outcome.lag,
        "served_s": {
            name: _spread([one.served_s for one in group if one.served_s is not None])
            for name, group in _standstill_groups(outcome).items()
        },
        "standstills": [
            {
                "role": one.role,
                "kind": one.kind,
                "target": one.target,
                "at_s": round(one.at_s, 2),
                "served_s": one.served_s,
                "alone": _is_alone(one, outcome),
            }
            for one in outcome.standstills
        ],
        "reconnects_s": _spread(outcome.reconnects_s),
        "term_took_s": _spread([end.took_s for end in outcome.ends if end.cause == "term"]),
        "lives": outcome.lives,
        "bad_ends": [asdict(end) for end in outcome.ends if not end.is_good],
        "phases": [asdict(phase) for phase in outcome.phases],
        "growth": [asdict(growth) for growth in outcome.growth],
        "problems": outcome.problems,
        "leftovers": outcome.leftovers,
    }


def as_table(options: Options, schedule: Sequence[Fault], outcome: Outcome) -> str:
    """Lay it out for people."""
    told = as_json(options, schedule, outcome)
    losses = outcome.verdict.losses
    faults = ", ".join(f"{number} {kind}" for kind, number in told["faults"].items()) or "none"
    lines = [
        "",
        f"storm of seed {options.seed}: {'nothing lost' if outcome.is_good else 'NOT GOOD'}",
        f"  faults            {faults}; {outcome.skipped} found nobody running; {outcome.lives} lives",
        f"  load, calm        {outcome.load_s:.0f} s with {told['confirmed']} confirmed"
        f" ({told['confirmed'] / max(outcome.load_s, 0.1):.0f}/s), settled {outcome.settle_s:.0f} s later",
        f"  losses            {len(losses)} {dict(told['losses']) if losses else ''}",
        f"  messages          {told['messages']} rows, {told['inbox_rows']} inbox,"
        f" {told['deliveries']} deliveries",
        f"  webhooks          {told['webhooks']}; {told['webhook_calls']} calls, {told['webhook_repeats']}"
        f" repeats ({told['webhook_repeat_share']:.2%}; by partition: median"
        f" {told['webhook_repeat_share_of_median_partition']:.2%}, most"
        f" {told['webhook_repeat_share_of_worst_partition']:.2%}),"
        f" {told['redelivered_events']} redelivered events,"
        f" {told['webhook_failures_played']} failures played",
        f"  push              {told['ws_received']} of {told['ws_addressed']}"
        f" ({told['ws_coverage']:.2%}), while connected {told['ws_coverage_while_connected']:.2%}"
        f" of {told['ws_addressed_while_connected']}; {told['ws_acks_confirmed']} acks confirmed",
        f"  on_failed         {told['on_failed_calls']} calls, {told['unsure']} never confirmed",
        f"  dead letters      {told['dead_letters'] or 0}",
        f"  lag               {told['lag'] or 0}",
        f"  devices back in   {_say(told['reconnects_s'])}",
        f"  SIGTERM to end    {_say(told['term_took_s'])}",
    ]
    for name, spread in told["served_s"].items():
        lines.append(f"  served, {name:<18} {_say(spread)}")
    lines += _phase_lines(outcome)
    lines += [
        f"  growth            {one.name} {one.measure}: {one.first:g} -> {one.last:g}"
        f" (most {one.most:g}), {one.per_hour:+g}/h over {one.life_s:.0f} s"
        for one in outcome.growth
    ]
    lines += [f"  problem           {problem}" for problem in outcome.problems]
    lines += [f"  left over         process {mark}" for mark in outcome.leftovers]
    for end in [end for end in outcome.ends if not end.is_good][:_MOST]:
        why = f"after {end.cause} ({end.took_s:.1f} s)" if end.cause else "by itself"
        lines.append(f"  bad end           {end.name} at {end.at_s:.1f} s: code {end.code} {why}")
        lines += [f"      {line[:400]}" for line in end.last_words.splitlines()[-3:]]
    lines += [f"  lost              {loss}" for loss in losses[:_MOST]]
    if len(losses) > _MOST:
        lines.append(f"  ... and {len(losses) - _MOST} more")
    lines += [f"  missed            {loss}" for loss in outcome.verdict.missed_pushes[:_MOST]]
    if outcome.explained:
        lines.append(f"  their lives       {outcome.explained}")
    return "\n".join(lines)


def _phase_lines(outcome: Outcome) -> list[str]:
    if not outcome.phases:
        return []
    head = "  phase, from..to (s): confirmed/s, webhooks/s (median, p99 ms), pushes/s (median, p99 ms)"
    return [head] + [
        f"  {one.name:<18} {one.from_s:7.1f}..{one.to_s:<7.1f} {one.confirmed_per_s:10.1f}"
        f" {one.webhooks_per_s:10.1f} ({one.webhook_median_ms:.0f}, {one.webhook_p99_ms:.0f})"
        f" {one.pushes_per_s:16.1f} ({one.push_median_ms:.0f}, {one.push_p99_ms:.0f})"
        for one in outcome.phases
    ]


def _standstill_groups(outcome: Outcome) -> dict[str, list[Standstill]]:
    """Sort standstills by role and kind; a kill that no other fault of its group came near is "alone"."""
    groups: dict[str, list[Standstill]] = {}
    for one in outcome.standstills:
        groups.setdefault(f"{one.role} {one.kind}", []).append(one)
        if one.kind == "kill" and _is_alone(one, outcome):
            groups.setdefault(f"{one.role} kill alone", []).append(one)
    return dict(sorted(groups.items()))


def _is_alone(one: Standstill, outcome: Outcome) -> bool:
    until_s = one.at_s + (one.served_s or 0.0)
    near = [
        other
        for other in outcome.standstills
        if other is not one and other.role == one.role and one.at_s - _NEAR_S < other.at_s < until_s
    ]
    away = [
        name
        for name, from_s, to_s in outcome.outages
        if from_s - _NEAR_S < until_s and one.at_s < to_s + _NEAR_S
    ]
    return not near and not away


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "median": round(statistics.median(values), 2),
        "max": round(max(values), 2),
    }


def _say(spread: dict[str, float]) -> str:
    if not spread["count"]:
        return "not measured"
    return f"median {spread['median']:g} s, max {spread['max']:g} s ({spread['count']} times)"
