from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from notifyd.errors import ConfigError, PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import load_settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.engine import Agent, EngineOptions
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.turns import Slots
from notifyd.stream.work import LeftUndone, Rest, work_on_batches, work_on_records
from tests.fixtures.waiting import eventually


def options_of(failures: list[Exception]) -> EngineOptions:
    return EngineOptions(
        role="test", group="g", settings=load_settings({}), metrics=Metrics(), fail=failures.append
    )


def flow_of(failures: list[BaseException] | None = None) -> PartitionFlow:
    kept = [] if failures is None else failures
    flow = PartitionFlow(TP("t", 0), window=100, on_change=lambda: None, on_failure=kept.append)
    flow.start_at(0)
    return flow


def batch_of(flow: PartitionFlow, count: int, keys: list[bytes] | None = None) -> Batch:
    first = flow.position or 0
    records = [
        SimpleNamespace(
            offset=first + number,
            timestamp=0,
            key=keys[number] if keys else None,
            value=b"",
            topic="t",
            partition=0,
        )
        for number in range(count)
    ]
    batch = flow.take(records, first + count, 0)
    assert batch is not None
    return batch


async def stream_of(queue: asyncio.Queue[Batch]) -> AsyncIterator[Batch]:
    while True:
        yield await queue.get()


async def no_surprise(record: Record, error: Exception) -> None:
    raise AssertionError(f"not expected: {error!r}")


def agent_of(kind: str, work: Any, surprise: Any) -> Agent:
    make: Any = work_on_records if kind == "records" else work_on_batches
    made: Agent = make(options_of([]), work, surprise, concurrency=3)
    return made


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_slots_come_back_from_tasks_that_were_cancelled_before_they_began() -> None:
    done: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        done.append(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    lost = flow_of()
    queue.put_nowait(batch_of(lost, 3))
    while not lost.running:  # noqa: ASYNC110  the very step after the tasks were made
        await asyncio.sleep(0)
    lost.close()
    await settle()
    kept = flow_of()
    queue.put_nowait(batch_of(kept, 10))
    await settle()
    running.cancel()
    assert len(done) == 10, "the tasks of the lost partition did begin, which is not what this tests"
    assert kept.uncommitted == 10


async def test_records_of_one_key_are_worked_on_in_order_and_others_overtake() -> None:
    order: list[int] = []
    gates = {0: asyncio.Event()}

    async def work(batch: Batch, record: Record) -> None:
        if record.offset in gates:
            await gates[record.offset].wait()
        order.append(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=10)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 4, [b"a", b"a", b"b", b"a"]))
    await settle()
    assert order == [2]
    gates[0].set()
    await settle()
    running.cancel()
    assert order == [2, 0, 1, 3]
    assert flow.uncommitted == 4


async def test_a_busy_key_takes_one_place_and_starves_nobody() -> None:
    order: list[bytes] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        if record.key == b"hot":
            await gate.wait()
        order.append(record.key)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=2)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 30, [b"hot"] * 20 + [b"%d" % n for n in range(10)]))
    for _ in range(5):
        await settle()
    assert order == [b"%d" % n for n in range(10)]
    gate.set()
    for _ in range(5):
        await settle()
    running.cancel()
    assert order[10:] == [b"hot"] * 20
    assert flow.uncommitted == 30
    assert not flow.lines


async def test_records_that_hang_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifyd.stream.work.Slots", partial(Slots, slow_s=0.01))
    done: list[int] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        if record.offset < 5:
            await gate.wait()
        done.append(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=2, aside=4)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 20))
    await eventually(lambda: len(done) == 15, what="those that do not hang")
    assert done == list(range(5, 20))
    assert flow.uncommitted == 0
    gate.set()
    await eventually(lambda: flow.uncommitted == 20, what="the others, too")
    running.cancel()


async def test_the_rest_of_a_record_may_end_in_a_future_that_others_share() -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    began: list[int] = []

    async def rest(number: int) -> asyncio.Future[None]:
        began.append(number)
        return shared

    async def work(batch: Batch, record: Record) -> Rest:
        return rest(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=5)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 4))
    await settle()
    assert began == [0, 1, 2, 3]
    assert flow.uncommitted == 0
    shared.set_result(None)
    await settle()
    assert flow.uncommitted == 4
    running.cancel()


async def test_what_one_partition_has_in_line_does_not_hold_up_another() -> None:
    begun: list[tuple[PartitionFlow, int]] = []
    gates: list[asyncio.Event] = []

    async def work(batch: Batch, record: Record) -> None:
        begun.append((batch.flow, record.offset))
        gates.append(gate := asyncio.Event())
        await gate.wait()

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    long, short = flow_of(), flow_of()
    queue.put_nowait(batch_of(long, 50))
    queue.put_nowait(batch_of(long, 40))
    await settle()
    queue.put_nowait(batch_of(short, 2))
    await settle()
    assert [offset for _, offset in begun] == [0, 1, 2]
    for gate in list(gates):
        gate.set()
    await settle()
    # Of the three places that became free each partition got its share, in turn.
    assert sorted((flow is short, offset) for flow, offset in begun[3:]) == [
        (False, 3),
        (False, 4),
        (True, 0),
    ]
    while len(begun) < 92:
        for gate in list(gates):
            gate.set()
        await settle()
    for flow in (long, short):
        offsets = [offset for where, offset in begun if where is flow]
        assert offsets == sorted(offsets), "the order of a partition was lost"
    for gate in gates:
        gate.set()
    await settle()
    assert (long.uncommitted, short.uncommitted) == (90, 2)
    running.cancel()
    await asyncio.wait({running})


async def test_places_that_become_free_at_once_are_shared_by_the_partitions_that_wait() -> None:
    """Tasks end in crowds, those whose events went in one record; the first in line must not take all."""
    begun: Counter[PartitionFlow] = Counter()
    gates: list[asyncio.Event] = [asyncio.Event()]

    async def work(batch: Batch, record: Record) -> None:
        begun[batch.flow] += 1
        await gates[-1].wait()

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=48)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flows = [flow_of() for _ in range(3)]
    for flow in flows:
        queue.put_nowait(batch_of(flow, 95))
    await settle()
    for _ in range(3):
        before = begun.copy()
        gate = gates[-1]
        gates.append(asyncio.Event())
        gate.set()
        await settle()
        got = [begun[flow] - before[flow] for flow in flows]
        assert sum(got) == 48
        assert min(got) >= 12, got
    running.cancel()
    await asyncio.wait({running})
    for flow in flows:
        flow.close()


async def test_what_waits_for_a_place_is_left_when_its_partition_ends() -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        if batch.flow is kept:
            return
        await gate.wait()

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    lost, kept = flow_of(), flow_of()
    queue.put_nowait(batch_of(lost, 50))
    queue.put_nowait(batch_of(lost, 40))
    await settle()
    lost.drain()
    gate.set()
    await settle()
    assert begun == [0, 1, 2], "a draining partition began something"
    queue.put_nowait(batch_of(kept, 10))
    await settle()
    assert kept.uncommitted == 10
    running.cancel()
    await asyncio.wait({running})


async def test_the_end_of_an_agent_leaves_no_task_behind() -> None:
    async def work(batch: Batch, record: Record) -> None:
        await asyncio.Event().wait()

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 50))
    await settle()
    before = asyncio.all_tasks()
    assert len(before) > 5, "nothing waits for a place"
    running.cancel()
    await asyncio.wait({running})
    flow.close()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_next_of_a_key_does_not_wait_for_the_outcome_of_the_one_before() -> None:
    tried: list[int] = []
    durable = asyncio.Event()

    async def work(batch: Batch, record: Record) -> Rest:
        tried.append(record.offset)
        return durable.wait()  # type: ignore[return-value]

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=5)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 4, [b"k"] * 4))
    for _ in range(3):
        await settle()
    assert tried == [0, 1, 2, 3]
    assert flow.uncommitted == 0, "acknowledged before its outcome was durable"
    flow.drain()
    idle = asyncio.ensure_future(flow.wait_idle())
    await settle()
    assert not idle.done(), "a drain must wait for outcomes on their way"
    durable.set()
    await asyncio.wait_for(idle, 2)
    running.cancel()
    assert flow.uncommitted == 4


async def test_a_record_that_comes_as_its_key_ends_is_worked_on() -> None:
    done: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        await asyncio.sleep(0)
        done.append(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=5)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    for steps in range(8):
        queue.put_nowait(batch_of(flow, 1, [b"k"]))
        for _ in range(steps):
            await asyncio.sleep(0)
    for _ in range(5):
        await settle()
    running.cancel()
    assert done == list(range(8))


async def test_a_drain_ends_a_line_after_the_record_at_work() -> None:
    done: list[int] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        await gate.wait()
        done.append(record.offset)

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=5)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 5, [b"k"] * 5))
    await settle()
    flow.drain()
    gate.set()
    await asyncio.wait_for(flow.wait_idle(), 2)
    running.cancel()
    assert done == [0]
    assert flow.uncommitted == 1


async def test_a_failed_outcome_ends_the_role_and_acks_nothing() -> None:
    failures: list[Exception] = []

    async def work(batch: Batch, record: Record) -> None:
        raise ZeroDivisionError

    async def cannot(record: Record, error: Exception) -> None:
        raise ConnectionError("the dead-letter queue is gone")

    agent = work_on_records(options_of(failures), work, cannot, concurrency=10)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 1))
    await settle()
    running.cancel()
    assert isinstance(failures[0], ConnectionError)
    assert flow.in_flight == 1


async def test_what_is_left_undone_in_a_lost_partition_is_neither_acked_nor_set_aside() -> None:
    failures: list[BaseException] = []
    flow = flow_of(failures)

    async def batch_work(batch: Batch) -> None:
        flow.close()
        raise LeftUndone

    agent = work_on_batches(options_of([]), batch_work, no_surprise, concurrency=1)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    queue.put_nowait(batch_of(flow, 5))
    await settle()
    running.cancel()
    assert flow.uncommitted is None
    assert not failures


@pytest.mark.parametrize("kind", ["records", "batches"])
async def test_work_that_leaves_its_records_in_a_partition_that_is_ours_is_a_failure(kind: str) -> None:
    failures: list[BaseException] = []

    async def work(*_: object) -> None:
        raise LeftUndone

    agent = agent_of(kind, work, no_surprise)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of(failures)
    queue.put_nowait(batch_of(flow, 1))
    await settle()
    running.cancel()
    assert isinstance(failures[0], LeftUndone)
    assert flow.in_flight == 1


@pytest.mark.parametrize("kind", ["records", "batches"])
async def test_work_that_cancels_itself_is_a_surprise_and_no_end_of_the_epoch(kind: str) -> None:
    surprises: list[str] = []

    async def work(batch: Batch, *_: object) -> None:
        if batch.records:
            raise asyncio.CancelledError  # as a timeout that leaks out of a library

    async def surprise(record: Record, error: Exception) -> None:
        surprises.append(str(error))

    agent = agent_of(kind, work, surprise)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 3))
    await settle()
    running.cancel()
    assert surprises == ["the work cancelled itself"] * 3
    assert flow.uncommitted == 3


@pytest.mark.parametrize("key", [None, b"k"])
@pytest.mark.parametrize("answer", ["rest", "error"])
async def test_work_that_does_not_hear_the_end_of_its_epoch_writes_no_outcome(
    answer: str, key: bytes | None
) -> None:
    outcomes: list[str] = []

    async def rest() -> None:
        outcomes.append("rest")

    async def work(batch: Batch, record: Record) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if answer == "error":
                raise ConnectionError("closed while in use") from None
        return rest()

    async def surprise(record: Record, error: Exception) -> None:
        outcomes.append("dead letter")

    agent = work_on_records(options_of([]), work, surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 1, [key] if key else None))
    await settle()
    flow.close()
    await settle()
    running.cancel()
    assert outcomes == []
    assert not flow.running


async def test_a_place_that_cannot_be_moved_over_what_was_set_aside_is_a_failure() -> None:
    failures: list[BaseException] = []

    async def batch_work(batch: Batch) -> None:
        raise ZeroDivisionError if batch.records else ConnectionError("the mark cannot be moved")

    async def surprise(record: Record, error: Exception) -> None:
        pass

    agent = work_on_batches(options_of([]), batch_work, surprise, concurrency=1)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of(failures)
    queue.put_nowait(batch_of(flow, 3))
    await settle()
    running.cancel()
    assert isinstance(failures[0], ConnectionError)
    assert flow.in_flight == 3


async def test_batches_that_wait_are_worked_on_together_up_to_a_poll() -> None:
    seen: list[tuple[int, int, int]] = []
    gate = asyncio.Event()

    async def work(batch: Batch) -> None:
        seen.append((batch.start, batch.end, len(batch.records)))
        await gate.wait()

    options = options_of([])
    few = options.settings.model_copy(update={"kafka_max_poll_records": 10})
    agent = work_on_batches(replace(options, settings=few), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow, other = flow_of(), flow_of()
    for size in (1, 4, 5, 2, 30, 1):
        queue.put_nowait(batch_of(flow, size))
        await settle()
    queue.put_nowait(batch_of(other, 3))
    await settle()
    assert len(flow.running) == 1, "a task for each batch, though they come one after the other"
    gate.set()
    await settle()
    assert seen == [(0, 1, 1), (0, 3, 3), (1, 10, 9), (10, 12, 2), (12, 42, 30), (42, 43, 1)]
    assert (flow.uncommitted, other.uncommitted) == (43, 3)
    running.cancel()


async def test_a_draining_partition_leaves_the_batches_that_wait() -> None:
    seen: list[int] = []
    gate = asyncio.Event()

    async def work(batch: Batch) -> None:
        seen.append(batch.start)
        await gate.wait()

    agent = work_on_batches(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    for _ in range(3):
        queue.put_nowait(batch_of(flow, 10))
        await settle()
    flow.drain()
    gate.set()
    await flow.wait_idle()
    running.cancel()
    assert seen == [0]
    assert flow.uncommitted == 10


async def test_a_draining_partition_begins_nothing_that_is_queued() -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        begun.append(record.offset)
        await gate.wait()

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=2)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 10))
    await settle()
    flow.drain()
    gate.set()
    await settle()
    running.cancel()
    assert begun == [0, 1]
    assert flow.uncommitted == 2


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no table message", reason="database_schema"),
        PermanentError("gone", reason="topic_missing"),
    ],
)
async def test_an_error_of_the_surroundings_ends_the_role_and_blames_no_record(error: Exception) -> None:
    failures: list[Exception] = []

    async def work(batch: Batch, record: Record) -> None:
        raise error

    agent = work_on_records(options_of(failures), work, no_surprise, concurrency=10)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 2))
    await settle()
    running.cancel()
    assert failures[0] is error
    assert flow.in_flight == 2


async def test_a_broken_deploy_ends_the_role_rather_than_set_the_topic_aside() -> None:
    failures: list[Exception] = []
    aside: list[int] = []

    async def work(batch: Batch, record: Record) -> None:
        raise FileNotFoundError("query.sql")

    async def surprise(record: Record, error: Exception) -> None:
        aside.append(record.offset)

    agent = work_on_records(options_of(failures), work, surprise, concurrency=10)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 60))
    for _ in range(20):
        await settle()
    running.cancel()
    assert len(aside) == 20
    assert "query.sql" in str(failures[0])
    assert flow.uncommitted == 20


async def test_a_few_surprises_among_much_work_are_set_aside() -> None:
    failures: list[Exception] = []
    aside: list[int] = []

    async def batch_work(batch: Batch) -> None:
        if any(record.offset % 3 == 0 for record in batch.records):
            raise ZeroDivisionError

    async def surprise(record: Record, error: Exception) -> None:
        aside.append(record.offset)

    agent = work_on_batches(options_of(failures), batch_work, surprise, concurrency=1)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    running = asyncio.ensure_future(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 90))
    for _ in range(40):
        await settle()
    running.cancel()
    assert not failures
    assert aside == list(range(0, 90, 3))
    assert flow.uncommitted == 90


@pytest.mark.parametrize("keys", [None, [b"a", b"a", b"b"]])
async def test_records_that_share_a_future_are_acked_with_it_and_not_before(keys: list[bytes] | None) -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begun: list[int] = []

    async def work(batch: Batch, record: Record) -> Rest:
        begun.append(record.offset)
        return shared

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=1)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    task = asyncio.create_task(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 3, keys))
    await settle()
    # One place, and all three have begun: none holds it while it waits. A drain waits for them.
    assert sorted(begun) == [0, 1, 2]
    assert flow.committable == 0
    assert len(flow.running) == 1
    shared.set_result(None)
    await asyncio.wait_for(flow.wait_idle(), 1)
    assert flow.committable == 3
    assert not flow.shared
    task.cancel()


async def test_each_record_that_shared_a_failure_gets_an_outcome() -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed: list[tuple[int, str]] = []

    async def work(batch: Batch, record: Record) -> Rest:
        return shared

    async def on_surprise(record: Record, error: Exception) -> None:
        failed.append((record.offset, str(error)))

    agent = work_on_records(options_of([]), work, on_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    task = asyncio.create_task(agent(stream_of(queue)))
    flow = flow_of()
    queue.put_nowait(batch_of(flow, 3))
    await settle()
    shared.set_exception(RuntimeError("no"))
    await asyncio.wait_for(flow.wait_idle(), 1)
    assert failed == [(0, "no"), (1, "no"), (2, "no")]
    assert flow.committable == 3
    task.cancel()


async def test_records_that_share_a_future_stay_unacked_when_their_partition_is_taken_away() -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> Rest:
        if record.offset == 2:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                gate.set()  # work that does not hear its end
        return shared

    agent = work_on_records(options_of([]), work, no_surprise, concurrency=3)
    queue: asyncio.Queue[Batch] = asyncio.Queue()
    task = asyncio.create_task(agent(stream_of(queue)))
    failures: list[BaseException] = []
    flow = flow_of(failures)
    queue.put_nowait(batch_of(flow, 3))
    await settle()
    flow.close()
    await asyncio.wait_for(flow.wait_idle(), 1)
    assert not shared.cancelled()
    assert failures == []
    assert not flow.shared
    shared.set_result(None)
    await settle()
    task.cancel()
