"""An outage beside the time before and after it: what still went on, how much, how quickly."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.storm.check import Sent
from tests.storm.records import lines_of


@dataclass(frozen=True, slots=True)
class Phase:
    """Rates a second, and the time from handing over to arrival (ms), of one stretch of time."""

    name: str
    from_s: float
    to_s: float
    confirmed_per_s: float
    webhooks_per_s: float
    pushes_per_s: float
    webhook_median_ms: float
    webhook_p99_ms: float
    push_median_ms: float
    push_p99_ms: float


def compare_phases(
    logs: Path,
    sent: Mapping[str, Sent],
    began_ms: float,
    outages: Sequence[tuple[str, float, float]],
) -> list[Phase]:
    """Return each outage with as long a time before and after it."""
    if not outages:
        return []
    confirmed = [(one.confirmed_ms, 0) for one in sent.values()]
    calls = list(_arrivals(_calls(logs / "receive.journal"), sent))
    pushes = list(_arrivals(_pushes(logs / "listen.journal"), sent))
    phases = []
    for kind, from_s, to_s in outages:
        lasts_s = to_s - from_s
        for name, start_s in (
            ("before", max(0.0, from_s - lasts_s)),
            (f"{kind} away", from_s),
            ("after", to_s),
        ):
            end_s = from_s if name == "before" else start_s + lasts_s
            window = (began_ms + start_s * 1000, began_ms + end_s * 1000)
            rates = [_rate(events, window) for events in (confirmed, calls, pushes)]
            waits = [_waits(events, window) for events in (calls, pushes)]
            phases.append(Phase(name, round(start_s, 1), round(end_s, 1), *rates, *waits[0], *waits[1]))
    return phases


def _calls(journal: Path) -> Iterable[tuple[int, str]]:
    for at, status, message_id, _ in lines_of(journal):
        if status == "200":
            yield int(at), message_id


def _pushes(journal: Path) -> Iterable[tuple[int, str]]:
    for kind, *parts in lines_of(journal):
        if kind == "msg":
            yield int(parts[0]), parts[2]


def _arrivals(events: Iterable[tuple[int, str]], sent: Mapping[str, Sent]) -> Iterable[tuple[int, int]]:
    for at_ms, message_id in events:
        if message_id in sent:
            yield at_ms, at_ms - sent[message_id].handed_ms


def _rate(events: Sequence[tuple[int, int]], window: tuple[float, float]) -> float:
    lasts_s = (window[1] - window[0]) / 1000
    number = sum(1 for at_ms, _ in events if window[0] <= at_ms < window[1])
    return round(number / lasts_s, 1) if lasts_s > 0 else 0.0


def _waits(events: Sequence[tuple[int, int]], window: tuple[float, float]) -> tuple[float, float]:
    waits = sorted(wait for at_ms, wait in events if window[0] <= at_ms < window[1])
    if not waits:
        return -1.0, -1.0
    return statistics.median(waits), waits[min(len(waits) - 1, int(len(waits) * 0.99))]
