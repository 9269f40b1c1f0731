"""Where to begin reading a partition: decided once per assignment, never by a silent reset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.structs import TopicPartition
from faust.types import TP

from notifyd.errors import PermanentError
from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.reading import read_ends

_log = get_logger()

#: Given partitions, tells the offsets of those that it knows a place for.
Places = Callable[[Sequence[TP]], Awaitable[Mapping[TP, int]]]


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading of a partition begins, and where the partition ended at that moment.

    `is_continued`: exactly where it stopped before, so that nothing lies between.
    """

    offset: int
    end: int
    is_continued: bool


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How a role starts its partitions.

    `places` overrides the group's committed offsets (`persist` starts at its marks).
    `back_s` starts at the records of so many seconds ago, `back_records` before the end at most (`ws`), and
    topics of `live` at their end: partitions that appear later start at 0, and those that come back after a
    rebalance where reading stopped. `on_starts` is then told each time, before anything is read.
    """

    places: Places | None = None
    back_s: float | None = None
    back_records: int = 1_000_000
    live: frozenset[str] = frozenset()
    on_starts: Callable[[Mapping[TP, Start]], None] | None = None


#: At the group's committed offsets; at the earliest record where there are none.
FROM_COMMITTED: Final = StartPlan()


async def plan_starts(
    client: Any,
    tps: Sequence[TP],
    plan: StartPlan,
    *,
    known: Collection[TP],
    last_position: Mapping[TP, int],
    settings: Settings,
) -> dict[TP, int]:
    """Return the offset to read first of each partition.

    A group without an offset starts at the earliest record. Raises `PermanentError` (reason
    `records_lost`) when records between the place and what the broker still has are gone, or
    the place lies beyond the end, as in a topic that was made anew: its range is unknown,
    never "empty". With `kafka_skip_lost_records` that is logged as an error and reading goes on.
    """
    aio = [TopicPartition(tp.topic, tp.partition) for tp in tps]
    earliest, ends = await asyncio.gather(client.beginning_offsets(aio), client.end_offsets(aio))
    if not settings.kafka_idempotence:
        # The mark of the embedded broker, which tells ends too low.
        ends = await read_ends(settings, ends)
    first = {TP(tp.topic, tp.partition): offset for tp, offset in earliest.items()}
    end = {TP(tp.topic, tp.partition): offset for tp, offset in ends.items()}
    if plan.back_s is not None:
        planned = await _plan_back(client, tps, plan, plan.back_s, first, end, known, last_position)
        if plan.on_starts is not None:
            plan.on_starts(planned)
        return {tp: start.offset for tp, start in planned.items()}
    if plan.places is not None:
        places = dict(await plan.places(tps))
    else:
        committed = await asyncio.gather(*(client.committed(tp) for tp in aio))
        places = {tp: offset for tp, offset in zip(tps, committed, strict=True) if offset is not None}
    may_skip = settings.kafka_skip_lost_records
    return {tp: _checked(tp, places.get(tp), first[tp], end[tp], may_skip) for tp in tps}


async def _plan_back(  # noqa: PLR0917
    client: Any,
    tps: Sequence[TP],
    plan: StartPlan,
    back_s: float,
    first: Mapping[TP, int],
    end: Mapping[TP, int],
    known: Collection[TP],
    last_position: Mapping[TP, int],
) -> dict[TP, Start]:
    # One that was given to us before and never read is no later one.
    fresh = [tp for tp in tps if tp not in last_position and (not known or tp in known)]
    back = await _offsets_back(client, [tp for tp in fresh if tp.topic not in plan.live], back_s)
    planned = {}
    for tp in tps:
        stopped_at = last_position.get(tp)
        if stopped_at is not None:
            offset = stopped_at
        elif tp in fresh and tp.topic in plan.live:
            offset = end[tp]
        elif tp in fresh:
            offset = max(back.get(tp, end[tp]), end[tp] - plan.back_records)
        else:
            offset = 0
        offset = min(max(offset, first[tp]), end[tp])
        planned[tp] = Start(offset, end[tp], is_continued=offset == stopped_at)
    return planned


async def _offsets_back(client: Any, tps: Sequence[TP], back_s: float) -> dict[TP, int]:
    """Return the first offset of the last `back_s` seconds, where a partition has one."""
    if not tps or not back_s:
        return {}
    since_ms = int((time.time() - back_s) * 1000)
    found = await client.offsets_for_times({TopicPartition(tp.topic, tp.partition): since_ms for tp in tps})
    return {
        TP(tp.topic, tp.partition): one.offset
        for tp, one in found.items()
        # The embedded broker says offset 0 of time -1 where there is none.
        if one is not None and one.timestamp >= 0
    }


def _checked(tp: TP, place: int | None, first: int, end: int, may_skip_lost: bool) -> int:
    if place is None:
        return first
    if first <= place <= end:
        return place
    if place < first:
        what = f"offsets {place} to {first - 1} of {tp.topic}:{tp.partition} are no longer in the broker"
    else:
        what = (
            f"the place to go on, offset {place}, lies beyond the end ({end}) of {tp.topic}:{tp.partition}: "
            "the topic was made anew or truncated"
        )
    if not may_skip_lost:
        raise PermanentError(
            what,
            reason="records_lost",
            remedy=f"set NOTIFYD_KAFKA_SKIP_LOST_RECORDS=true to go on at offset {first}",
        )
    _log.error("records_lost", topic=tp.topic, partition=tp.partition, detail=what, resumes_at=first)
    return first
