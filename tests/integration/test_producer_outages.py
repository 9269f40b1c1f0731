"""The producer while Apache Kafka is killed, frozen or away: nothing confirmed is lost, nothing hangs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.child import free_port
from notifyd.dev.kafka import LocalKafka
from notifyd.errors import TransientError
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.producer import Notifier, Outgoing
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.topics import Topics, create_topics
from tests.fixtures.kafka import settings_for
from tests.fixtures.waiting import eventually
from tests.fixtures.written import count_of, running_producer, write_through_kills


@pytest.fixture
async def settings(own_kafka: LocalKafka, topic_prefix: str) -> Settings:
    found = settings_for(
        own_kafka.bootstrap_servers,
        is_embedded=False,
        topic_prefix=topic_prefix,
        producer_timeout_s=5.0,
        producer_max_pending=200,
    )
    await create_topics(found)
    return found


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[Producer]:
    async with running_producer(settings) as found:
        yield found


async def test_a_broker_killed_mid_send_loses_nothing_and_doubles_nothing(
    own_kafka: LocalKafka, settings: Settings, producer: Producer
) -> None:
    await write_through_kills(
        own_kafka, settings, lambda record: producer.send_held([record]), writers=20, each=100
    )


async def test_a_frozen_broker_fills_the_buffer_and_each_sender_learns_it_in_time(
    own_kafka: LocalKafka, settings: Settings, producer: Producer
) -> None:
    topic = Topics.of(settings).messages
    await producer.send(OutRecord(topic, b"first"))
    own_kafka.pause()
    try:
        results = await asyncio.gather(
            *(producer.send(OutRecord(topic, b"%d" % number), timeout_s=1) for number in range(300)),
            return_exceptions=True,
        )
        assert Counter(getattr(result, "reason", "") for result in results) == {
            "producer_timeout": 200,
            "buffer_full": 100,
        }
        assert "may still arrive" in str(results[0])
        assert producer.pending == 200
    finally:
        own_kafka.resume()
    # What was handed over does arrive: "not confirmed" was the truth, "failed" would not have been.
    await eventually(lambda: producer.pending == 0, timeout_s=60)
    assert set(await count_of(settings)) == {b"first", *(b"%d" % number for number in range(200))}


async def test_a_held_send_waits_out_the_freeze_with_one_line_and_is_written_once(
    own_kafka: LocalKafka, settings: Settings
) -> None:
    settings = settings.model_copy(update={"producer_timeout_s": 0.5})
    producer = Producer(settings, Metrics(), client_id="test")
    await producer.start()
    topic = Topics.of(settings).messages
    await producer.send(OutRecord(topic, b"first"), timeout_s=10)
    with structlog.testing.capture_logs() as lines:
        own_kafka.pause()
        try:
            held = asyncio.create_task(producer.send_held([OutRecord(topic, b"a"), OutRecord(topic, b"b")]))
            done, _ = await asyncio.wait([held], timeout=2.5)
            assert not done
        finally:
            own_kafka.resume()
        await asyncio.wait_for(held, 60)
    events = [line["event"] for line in lines]
    assert events == ["waiting_to_produce", "producing_again"]
    assert await count_of(settings) == Counter([b"first", b"a", b"b"])
    await producer.stop(5)


async def test_brokers_that_moved_are_found_through_the_bootstrap_servers(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    before, after = (EmbeddedBroker(tmp_path / str(port), port=port) for port in ports)
    settings = settings_for(
        ",".join(f"127.0.0.1:{port}" for port in ports),
        is_embedded=True,
        topic_prefix="moved.",
        producer_timeout_s=1.0,
    )
    topic = Topics.of(settings).messages
    producer = Producer(settings, Metrics(), client_id="test")
    try:
        await asyncio.to_thread(before.start)
        await create_topics(settings)
        await producer.start()
        await producer.send(OutRecord(topic, b"before"))
        await asyncio.to_thread(before.kill)
        held = asyncio.create_task(producer.send_held([OutRecord(topic, b"after")]))
        await eventually(lambda: producer.pending == 1)
        await asyncio.to_thread(after.start)
        await create_topics(settings)
        await asyncio.wait_for(held, 60)
        assert b"after" in await count_of(settings)
    finally:
        await producer.stop(1)
        await asyncio.to_thread(before.stop)
        await asyncio.to_thread(after.stop)


async def test_a_stop_with_a_frozen_broker_ends_and_says_what_was_not_confirmed(
    own_kafka: LocalKafka, settings: Settings, producer: Producer
) -> None:
    topic = Topics.of(settings).messages
    await producer.send(OutRecord(topic, b"first"))
    before = asyncio.all_tasks()
    own_kafka.pause()
    try:
        sending = [asyncio.create_task(producer.send(OutRecord(topic, b"x"), timeout_s=60)) for _ in range(7)]
        await eventually(lambda: producer.pending == 7)
        with structlog.testing.capture_logs() as lines:
            await asyncio.wait_for(producer.stop(0.2), 20)
        outcomes = await asyncio.wait_for(asyncio.gather(*sending, return_exceptions=True), 5)
    finally:
        own_kafka.resume()
    assert {getattr(outcome, "reason", "") for outcome in outcomes} == {"producer_stopped"}
    assert [(line["event"], line["records"]) for line in lines] == [
        ("producer_stopped_with_unconfirmed_records", 7)
    ]
    await eventually(lambda: asyncio.all_tasks() <= before, timeout_s=5, what="tasks of the inner producer")


async def test_a_broker_that_forgot_the_producer_is_met_with_a_new_one(
    settings: Settings, producer: Producer
) -> None:
    topic = Topics.of(settings).messages
    await producer.send(OutRecord(topic, b"1", partition=0))
    inner = producer._inner
    assert inner is not None
    inner._txn_manager.increment_sequence_number(
        next(iter(inner._txn_manager._sequence_numbers)), 5
    )  # as after a batch that was refused
    places = await producer.send_all(
        [OutRecord(topic, b"%d" % number, partition=0) for number in range(2, 5)]
    )
    assert len(places) == 3
    assert producer._inner is not inner
    assert sorted(await count_of(settings)) == [b"1", b"2", b"3", b"4"]


async def test_a_dead_sender_task_is_replaced(settings: Settings, producer: Producer) -> None:
    topic = Topics.of(settings).messages
    inner = producer._inner
    assert inner is not None

    def explode(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug of the library")

    inner._message_accumulator.drain_by_nodes = explode
    await producer.send(OutRecord(topic, b"after all"))
    assert producer._inner is not inner
    # aiokafka leaves these failed futures behind. Unread, they would say so while they are collected, in
    # the midst of pytest's own work, over which CPython 3.11 stumbles (AST recursion depth mismatch).
    for batches in inner._message_accumulator._batches.values():
        for batch in batches:
            batch._drain_waiter.exception()


async def test_a_notifier_tells_its_callback_once_for_each_message_that_was_not_confirmed(
    own_kafka: LocalKafka, settings: Settings
) -> None:
    told: list[tuple[str, str]] = []
    doubtful = new_id()

    async def on_failed(message: Outgoing, error: Exception) -> None:
        told.append((message.id, getattr(error, "reason", "")))

    async with Notifier(settings, sender="test", on_failed=on_failed) as notifier:
        first = await notifier.send(to="alice", title="Hi")
        own_kafka.pause()
        try:
            with pytest.raises(TransientError) as caught:
                await notifier.send(to="alice", title="Hi", id=doubtful, timeout_s=1)
            assert caught.value.reason == "producer_timeout"
            results = await notifier.send_many([{"to": "bob", "title": "x"}] * 5, timeout_s=1)
        finally:
            own_kafka.resume()
        assert [getattr(result, "reason", "") for result in results] == ["producer_timeout"] * 5
        again = await notifier.send(to="alice", title="Hi", timeout_s=30)
    assert (first.status, again.status) == ("confirmed", "confirmed")
    assert len(told) == len(set(told)) == 6
    assert told[0] == (doubtful, "producer_timeout")
