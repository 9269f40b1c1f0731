"""The engine against a real broker: what it reads, commits, gives back and takes over."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import pytest

from notifyd.errors import PermanentError
from notifyd.settings import Settings
from notifyd.stream.batch import Batch, Record
from notifyd.stream.start import StartPlan
from tests.fixtures.engines import Member, committed, ends, make_topic, new_group, produce
from tests.fixtures.waiting import eventually


def values(count: int, prefix: str = "v") -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


async def test_every_record_is_worked_on_once_and_the_commit_ends_at_the_end(settings: Settings) -> None:
    topic = await make_topic(settings, "engine")
    await produce(settings, topic, values(5000))
    member = await Member(settings, new_group(), [topic]).start()
    await eventually(lambda: sum(member.seen.values()) >= 5000, what="5,000 records")
    await member.stop()
    assert member.seen == Counter(values(5000))
    assert await committed(settings, member.group, topic) == await ends(settings, topic)


async def test_a_record_that_is_not_done_holds_the_commit_and_comes_again(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(100))
    stuck = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        if record.offset == 41:
            stuck.set()
            await asyncio.sleep(3600)

    short = settings.model_copy(update={"drain_s": 0.5})
    first = await Member(short, new_group(), [topic], work=work).start()
    await eventually(lambda: sum(first.seen.values()) == 99 and stuck.is_set(), what="all but one")
    await first.stop()
    assert await committed(settings, first.group, topic, 1) == [41]
    second = await Member(settings, first.group, [topic]).start()
    await eventually(lambda: sum(second.seen.values()) == 59, what="the rest, from the one not done")
    await second.stop()
    assert b"v41" in second.seen
    assert await committed(settings, first.group, topic, 1) == [100]


async def test_members_that_come_and_go_under_load_lose_nothing(settings: Settings) -> None:
    topic = await make_topic(settings, "engine")
    group = new_group()

    async def work(batch: Batch, record: Record) -> None:
        await asyncio.sleep(0.002)

    members = [await Member(settings, group, [topic], work=work).start()]
    for wave in range(4):
        await produce(settings, topic, values(1000, f"w{wave}-"))
        if wave < 3:
            members.append(await Member(settings, group, [topic], work=work).start())
        else:
            await members[0].stop()
    expected = {value for wave in range(4) for value in values(1000, f"w{wave}-")}

    def all_seen() -> bool:
        return expected <= set().union(*(set(member.seen) for member in members))

    await eventually(all_seen, what="every record, somewhere", timeout_s=60)
    for member in members[1:]:
        await member.stop()
    assert await committed(settings, group, topic) == await ends(settings, topic)
    repeats = sum(sum(member.seen.values()) for member in members) - len(expected)
    assert repeats == 0, f"{repeats} records were repeated though every drain had time"


async def test_a_surprise_becomes_an_outcome_and_never_an_ack_before_it(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(50))

    async def work(batch: Batch, record: Record) -> None:
        if record.offset % 10 == 3:
            raise ZeroDivisionError("nobody foresaw this")

    member = await Member(settings, new_group(), [topic], work=work).start()
    await eventually(lambda: sum(member.seen.values()) + len(member.surprises) == 50, what="50 outcomes")
    await member.stop()
    assert sorted(offset for offset, _ in member.surprises) == [3, 13, 23, 33, 43]
    assert await committed(settings, member.group, topic, 1) == [50]


async def test_a_batch_that_fails_sets_only_the_culprit_aside(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(40))
    done: list[int] = []
    places: list[tuple[int, int]] = []

    async def batch_work(batch: Batch) -> None:
        if any(record.offset == 17 for record in batch.records):
            raise ZeroDivisionError("poison")
        places.append((batch.start, batch.end))
        done.extend(record.offset for record in batch.records)

    member = await Member(settings, new_group(), [topic], batch_work=batch_work).start()
    await eventually(lambda: len(done) + len(member.surprises) >= 40, what="40 outcomes")
    await member.stop()
    assert [offset for offset, _ in member.surprises] == [17]
    assert sorted(done) == [offset for offset in range(40) if offset != 17]
    assert all(ended == began for (_, ended), (began, _) in itertools.pairwise(places)), places
    assert await committed(settings, member.group, topic, 1) == [40]


async def test_batches_of_a_partition_keep_their_order_while_partitions_go_beside_each_other(
    settings: Settings,
) -> None:
    topic = await make_topic(settings, "engine")
    await produce(settings, topic, values(4000))
    seen: dict[int, list[int]] = {}

    async def batch_work(batch: Batch) -> None:
        await asyncio.sleep(0.001)
        seen.setdefault(batch.tp.partition, []).extend(record.offset for record in batch.records)

    member = await Member(settings, new_group(), [topic], batch_work=batch_work).start()
    await eventually(lambda: sum(map(len, seen.values())) == 4000, what="all batches")
    await member.stop()
    assert all(offsets == sorted(offsets) for offsets in seen.values())


async def test_a_full_window_pauses_its_partition_alone(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=2)
    small = settings.model_copy(update={"kafka_window_records": 20, "kafka_max_poll_records": 10})
    gate = asyncio.Event()
    begun: Counter[int] = Counter()

    async def work(batch: Batch, record: Record) -> None:
        begun[record.partition] += 1
        if record.partition == 0:
            await gate.wait()

    await produce(settings, topic, values(100, "slow"), partition=0)
    await produce(settings, topic, values(300, "fast"), partition=1)
    member = await Member(small, new_group(), [topic], work=work, concurrency=100).start()
    await eventually(lambda: begun[1] == 300 and begun[0] == 20, what="the other partition to end")
    assert (
        member.app.engine_consumer.flows[
            next(tp for tp in member.app.engine_consumer.flows if tp.partition == 0)
        ].room
        == 0
    )
    gate.set()
    await eventually(lambda: begun[0] == 100, what="the paused partition to go on")
    await member.stop()


async def test_polling_goes_on_while_every_partition_is_paused(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=2)
    small = settings.model_copy(update={"kafka_window_records": 5, "kafka_max_poll_records": 5})
    gate = asyncio.Event()

    async def work(batch: Batch, record: Record) -> None:
        await gate.wait()

    await produce(settings, topic, values(100))
    member = await Member(
        small, new_group(), [topic], work=work, options={"max_poll_interval_s": 4.0}
    ).start()
    consumer = await eventually(lambda: member.app.is_joined and member.app.engine_consumer)
    await eventually(lambda: all(flow.room == 0 for flow in consumer.flows.values()), what="full windows")
    epoch = dict(consumer.flows)
    paused_at = time.monotonic()
    await eventually(lambda: time.monotonic() - paused_at > 7.0, what="the poll interval to pass")
    assert consumer.flows == epoch, "the member was thrown out of its group"
    gate.set()
    await eventually(lambda: sum(member.seen.values()) == 100, what="all records")
    await member.stop()
    assert await committed(settings, member.group, topic, 2) == await ends(settings, topic, 2)


async def test_a_delayed_topic_hands_over_when_due_and_not_before(settings: Settings) -> None:
    topic = await make_topic(settings, "delayed", partitions=1)
    ages: list[float] = []

    async def work(batch: Batch, record: Record) -> None:
        ages.append(time.time() - record.timestamp / 1000)

    member = await Member(
        settings, new_group(), [topic], work=work, options={"delays_s": {topic: 1.0}}
    ).start()
    await produce(settings, topic, values(20))
    await eventually(lambda: len(ages) == 20, what="due records")
    await member.stop()
    assert min(ages) >= 0.99


async def test_live_only_starts_at_the_end_and_goes_on_after_a_rebalance(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(10, "old"))
    group = new_group()
    live = {"start": StartPlan(back_s=0.0), "commits": False}
    member = await Member(settings, group, [topic], options=live).start()
    await eventually(lambda: member.app.is_joined)
    await produce(settings, topic, values(10, "new"))
    await eventually(lambda: sum(member.seen.values()) == 10)
    member.app.engine_consumer.client._coordinator.request_rejoin()
    await produce(settings, topic, values(10, "more"))
    await eventually(lambda: sum(member.seen.values()) == 20, what="records over the rebalance")
    await member.stop()
    assert member.seen == Counter(values(10, "new") + values(10, "more"))


async def test_a_place_that_the_broker_does_not_have_ends_the_role_with_the_range(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(10))

    async def places(tps: object) -> dict[object, int]:
        return dict.fromkeys(tps, 5000)  # type: ignore[attr-defined]

    member = await Member(
        settings,
        new_group(),
        [topic],
        options={"start": StartPlan(places=places)},  # type: ignore[arg-type]
    ).start()
    await eventually(lambda: member.failures, what="the role to fail")
    await member.stop()
    error = member.failures[0]
    assert isinstance(error, PermanentError)
    assert error.reason == "records_lost"
    assert "5000" in str(error)
    assert not member.seen


async def test_an_operator_can_go_on_past_what_was_lost(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(10))

    async def places(tps: object) -> dict[object, int]:
        return dict.fromkeys(tps, 5000)  # type: ignore[attr-defined]

    on = settings.model_copy(update={"kafka_skip_lost_records": True})
    member = await Member(on, new_group(), [topic], options={"start": StartPlan(places=places)}).start()  # type: ignore[arg-type]
    await eventually(lambda: sum(member.seen.values()) == 10)
    await member.stop()


async def test_a_partition_can_be_read_anew_from_where_its_plan_says(settings: Settings) -> None:
    topic = await make_topic(settings, "engine", partitions=1)
    await produce(settings, topic, values(10))
    marks = [0]
    order: list[int] = []

    async def places(tps: object) -> dict[object, int]:
        return dict.fromkeys(tps, marks[0])  # type: ignore[attr-defined]

    async def batch_work(batch: Batch) -> None:
        order.extend(record.offset for record in batch.records)
        if len(order) == 10:
            marks[0] = 6
            member.app.reopen(batch)

    member = Member(
        settings,
        new_group(),
        [topic],
        batch_work=batch_work,
        options={"start": StartPlan(places=places)},  # type: ignore[arg-type]
    )
    await member.start()
    await eventually(lambda: len(order) >= 14, what="the repeated records")
    await member.stop()
    assert order == [*range(10), 6, 7, 8, 9]


@pytest.mark.needs_kafka("the embedded broker forgets its offsets when it ends")
async def test_the_broker_may_be_killed_and_come_back(own_kafka: object, topic_prefix: str) -> None:
    from tests.fixtures.kafka import settings_for

    kafka = own_kafka
    settings = settings_for(kafka.bootstrap_servers, is_embedded=False, topic_prefix=topic_prefix)  # type: ignore[attr-defined]
    topic = await make_topic(settings, "engine")
    await produce(settings, topic, values(500, "a"))
    member = await Member(settings, new_group(), [topic]).start()
    await eventually(lambda: sum(member.seen.values()) == 500)
    await asyncio.to_thread(kafka.kill)  # type: ignore[attr-defined]
    await asyncio.to_thread(kafka.restart)  # type: ignore[attr-defined]
    await produce(settings, topic, values(500, "b"))
    await eventually(lambda: set(values(500, "b")) <= set(member.seen), what="records after", timeout_s=60)
    await eventually(lambda: member.app.is_joined, timeout_s=60)
    await member.stop()
    assert not member.failures
    assert await committed(settings, member.group, topic) == await ends(settings, topic)
