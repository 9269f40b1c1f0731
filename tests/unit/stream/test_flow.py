from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

from faust.types import TP

from notifyd.stream.flow import PartitionFlow

TP0 = TP("t", 0)


def record(offset: int, timestamp: int = 0, key: bytes | None = None, value: bytes = b"") -> SimpleNamespace:
    return SimpleNamespace(
        offset=offset, timestamp=timestamp, key=key, value=value, topic="t", partition=0, headers=()
    )


def no_failure(error: BaseException) -> None:
    raise AssertionError(f"not expected: {error!r}")


def flow_of(
    window: int = 10,
    delay_s: float = 0.0,
    window_bytes: int = 1_000_000,
    on_failure: Callable[[BaseException], None] = no_failure,
) -> tuple[PartitionFlow, list[int]]:
    wakes: list[int] = []
    flow = PartitionFlow(
        TP0,
        window=window,
        window_bytes=window_bytes,
        delay_s=delay_s,
        on_change=lambda: wakes.append(1),
        on_failure=on_failure,
    )
    flow.start_at(0)
    wakes.clear()
    return flow, wakes


def test_nothing_is_read_before_the_place_is_known() -> None:
    flow = PartitionFlow(TP0, window=10, on_change=lambda: None, on_failure=no_failure)
    assert flow.room == 0
    flow.start_at(7)
    assert (flow.room, flow.position) == (10, 7)


def test_a_full_window_pauses_the_partition_and_an_ack_wakes_the_reader() -> None:
    flow, wakes = flow_of(window=2)
    batch = flow.take([record(0), record(1)], 2, 0)
    assert batch is not None
    assert flow.room == 0
    batch.ack(0)
    assert flow.room == 1
    assert wakes


def test_reading_goes_on_once_a_quarter_of_the_window_is_free_and_wakes_once() -> None:
    flow, wakes = flow_of(window=8)
    batch = flow.take([record(n) for n in range(8)], 8, 0)
    assert batch is not None
    batch.ack(0)
    assert (flow.room, wakes) == (0, [])
    batch.ack(1)
    assert (flow.room, wakes) == (2, [1])
    batch.ack_all()
    assert (flow.room, wakes) == (8, [1])


def test_large_records_fill_a_window_by_their_size() -> None:
    flow, wakes = flow_of(window=100, window_bytes=1000)
    batch = flow.take([record(n, value=b"x" * 300) for n in range(3)], 3, 0)
    assert batch is not None
    assert flow.room == 0
    batch.ack(1)
    assert (flow.room, wakes) == (98, [1])
    flow.take([record(3, value=b"x" * 5000)], 4, 0)  # larger than the window: alone, but not for ever
    assert flow.room == 0
    batch.ack_all()
    assert flow.room == 0
    flow.ack(3)
    assert flow.room == 100


def test_batches_join_without_gaps_where_the_log_has_holes() -> None:
    flow, _ = flow_of()
    first = flow.take([record(1), record(3)], 6, 0)
    flow.take([], 9, 0)
    second = flow.take([record(9)], 10, 0)
    assert first is not None
    assert second is not None
    assert (first.start, first.end) == (0, 6)
    assert (second.start, second.end) == (6, 10)


def test_the_parts_of_a_batch_cover_it() -> None:
    flow, _ = flow_of()
    batch = flow.take([record(1), record(3), record(4)], 8, 0)
    assert batch is not None
    assert [(part.start, part.end, len(part.records)) for part in batch.split()] == [
        (0, 3, 1),
        (3, 4, 1),
        (4, 8, 1),
    ]


def test_the_age_of_a_partition_is_that_of_its_oldest_fetch_in_flight() -> None:
    flow, _ = flow_of()
    assert flow.oldest_ms() is None
    first = flow.take([record(0, 1000), record(1, 1500)], 2, 0)
    second = flow.take([record(2, 3000)], 3, 0)
    assert first is not None
    assert second is not None
    second.ack_all()
    assert flow.oldest_ms() == 1000
    flow.take([record(3, 4000)], 4, 0)
    first.ack_all()
    assert flow.oldest_ms() == 4000
    flow.ack(3)
    assert flow.oldest_ms() is None


def test_a_delayed_partition_hands_over_what_is_due_and_in_order() -> None:
    flow, _ = flow_of(delay_s=5)
    assert flow.take([record(0, 1000), record(1, 2000), record(2, 5500)], 3, 5999) is None
    assert flow.next_due_ms == 6000
    assert flow.room == 0  # its head waits: nothing behind it is read
    batch = flow.due(7000)
    assert batch is not None
    assert [r.offset for r in batch.records] == [0, 1]
    assert (batch.start, batch.end) == (0, 2)
    assert flow.next_due_ms == 10500
    rest = flow.due(10500)
    assert rest is not None
    assert (rest.start, rest.end) == (2, 3)
    assert flow.room == 7


def test_a_record_from_a_clock_ahead_waits_no_longer_than_its_delay_and_holds_nobody_up_for_longer() -> None:
    flow, _ = flow_of(delay_s=5)
    in_a_day = 86_400_000
    assert flow.take([record(0, in_a_day), record(1, 1000)], 2, 2000) is None
    assert flow.next_due_ms == 7000
    batch = flow.due(7000)
    assert batch is not None
    assert [r.offset for r in batch.records] == [0, 1]


def test_what_is_due_waits_for_an_earlier_record_that_is_not() -> None:
    flow, _ = flow_of(delay_s=5)
    assert flow.take([record(0, 3000), record(1, 1000)], 2, 7000) is None
    batch = flow.due(8000)
    assert batch is not None
    assert [r.offset for r in batch.records] == [0, 1]


def test_a_small_window_moves_on_through_a_long_delay() -> None:
    flow, _ = flow_of(window=2, delay_s=5)
    handed_over = []
    for first in range(0, 10, 2):
        assert flow.room == 2
        assert flow.take([record(first, 1000), record(first + 1, 1000)], first + 2, 1000) is None
        batch = flow.due(6000)
        assert batch is not None
        handed_over += [r.offset for r in batch.records]
        batch.ack_all()
    assert handed_over == [*range(10)]


def test_what_waits_for_its_time_is_left_unacked_at_a_drain() -> None:
    flow, _ = flow_of(delay_s=5)
    flow.take([record(0, 0), record(1, 9000)], 2, 0)
    flow.drain()
    assert flow.due(100_000) is None
    assert flow.next_due_ms is None
    assert flow.uncommitted == 0


def test_what_waits_for_its_time_holds_the_commit() -> None:
    flow, _ = flow_of(delay_s=5)
    batch = flow.take([record(0, 0), record(1, 9000)], 2, 5000)
    assert batch is not None
    batch.ack_all()
    assert flow.uncommitted == 1


async def test_a_drain_begins_nothing_new_and_waits_for_what_runs() -> None:
    flow, _ = flow_of()
    go = asyncio.Event()
    batch = flow.take([record(0)], 1, 0)
    assert batch is not None

    async def work() -> None:
        await go.wait()
        batch.ack(0)

    flow.begin(work(), batch)
    flow.drain()
    assert not batch.is_live
    assert flow.room == 0
    idle = asyncio.create_task(flow.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    assert flow.running == ["t:0@0"]
    go.set()
    await asyncio.wait_for(idle, 1)
    assert flow.uncommitted == 1


async def test_a_closed_flow_cancels_what_runs_and_takes_no_late_ack() -> None:
    flow, _ = flow_of()
    batch = flow.take([record(0)], 1, 0)
    assert batch is not None
    task = flow.begin(asyncio.sleep(60), batch)
    flow.close()
    await asyncio.wait({task}, timeout=1)
    assert task.cancelled()
    batch.ack_all()
    assert flow.uncommitted is None


async def test_work_that_ends_with_an_error_of_its_own_is_reported() -> None:
    failures: list[BaseException] = []
    flow, _ = flow_of(on_failure=failures.append)
    batch = flow.take([record(0), record(1)], 2, 0)
    assert batch is not None

    async def work(error: BaseException) -> None:
        raise error

    tasks = {flow.begin(work(ZeroDivisionError()), batch), flow.begin(work(asyncio.CancelledError()), batch)}
    await asyncio.wait(tasks)
    await flow.wait_idle()
    assert [type(failure) for failure in failures] == [ZeroDivisionError, RuntimeError]
    assert flow.in_flight == 2


async def test_several_wait_for_the_same_drain() -> None:
    flow, _ = flow_of()
    batch = flow.take([record(0)], 1, 0)
    assert batch is not None
    go = asyncio.Event()
    flow.begin(go.wait(), batch)  # type: ignore[arg-type]
    waiting = [asyncio.create_task(flow.wait_idle()) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
