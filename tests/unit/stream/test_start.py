"""Where reading begins, with a broker made of numbers."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.structs import OffsetAndTimestamp
from faust.types import TP

from notifyd.settings import Settings
from notifyd.stream.start import Start, StartPlan, plan_starts

A, B = TP("messages", 0), TP("messages", 1)


class FakeClient:
    """Holds offsets [5, 100) of each partition; those of the last minutes begin at `recent`."""

    def __init__(self, recent: int | None = 80) -> None:
        self.recent = recent

    async def beginning_offsets(self, tps: Any) -> dict[Any, int]:
        return dict.fromkeys(tps, 5)

    async def end_offsets(self, tps: Any) -> dict[Any, int]:
        return dict.fromkeys(tps, 100)

    async def offsets_for_times(self, times: Any) -> dict[Any, Any]:
        return {tp: self.recent and OffsetAndTimestamp(self.recent, ms + 1) for tp, ms in times.items()}


async def plan(client: FakeClient, *, known: Any = (), last: Any = None, **more: Any) -> dict[TP, Start]:
    told: dict[TP, Start] = {}
    starts = await plan_starts(
        client,
        [A, B],
        StartPlan(**{"back_s": 300.0, "on_starts": told.update, **more}),
        known=known,
        last_position=last or {},
        settings=Settings(),
    )
    assert starts == {tp: start.offset for tp, start in told.items()}
    return told


async def test_the_first_assignment_starts_a_while_back():
    assert await plan(FakeClient()) == {A: Start(80, 100, False), B: Start(80, 100, False)}


async def test_a_live_topic_starts_at_its_end_then_goes_on_and_its_later_partitions_start_at_their_first():
    live = {"live": frozenset({"messages"})}
    assert await plan(FakeClient(), **live) == {A: Start(100, 100, False), B: Start(100, 100, False)}
    assert await plan(FakeClient(), known=[A], last={A: 90}, **live) == {
        A: Start(90, 100, True),
        B: Start(5, 100, False),
    }


async def test_where_nothing_is_that_young_it_starts_at_the_end():
    assert (await plan(FakeClient(None)))[A] == Start(100, 100, False)


async def test_the_embedded_brokers_way_to_say_nothing_is_understood():
    client = FakeClient()

    async def nothing(times: Any) -> Any:
        return dict.fromkeys(times, OffsetAndTimestamp(0, -1))

    client.offsets_for_times = nothing  # type: ignore[method-assign]
    assert (await plan(client))[A].offset == 100


@pytest.mark.parametrize(("records", "offset"), [(10, 90), (1000, 80)])
async def test_it_never_starts_more_records_back_than_it_may(records, offset):
    assert (await plan(FakeClient(), back_records=records))[A].offset == offset


async def test_a_later_partition_starts_at_its_beginning_and_one_that_comes_back_where_it_stopped():
    found = await plan(FakeClient(), known={A}, last={A: 42})
    assert found == {A: Start(42, 100, True), B: Start(5, 100, False)}


@pytest.mark.parametrize(("stopped", "offset"), [(2, 5), (200, 100)])
async def test_a_place_that_is_gone_is_no_continuation(stopped, offset):
    assert (await plan(FakeClient(), known={A}, last={A: stopped}))[A] == Start(offset, 100, False)


async def test_one_that_was_assigned_and_never_read_is_not_read_from_its_beginning():
    assert (await plan(FakeClient(), known={A, B}, last={A: 42}))[B] == Start(80, 100, False)
