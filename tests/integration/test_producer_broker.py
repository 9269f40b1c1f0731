"""The producer on a real broker: what it confirms is there, and what it cannot do it says in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.child import free_port
from notifyd.errors import ConfigError, NotifydError, PermanentError, TransientError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord, Producer, RecordPlace
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics, create_topics, dlq_max_bytes, message_topic_max_bytes
from tests.fixtures.kafka import settings_for
from tests.fixtures.waiting import eventually
from tests.fixtures.written import running_producer


@pytest.fixture
async def topics(settings: Settings) -> Topics:
    await create_topics(settings)
    return Topics.of(settings)


@pytest.fixture
async def producer(settings: Settings, topics: Topics) -> AsyncIterator[Producer]:
    async with running_producer(settings, flush_s=5) as found:
        yield found


async def values(settings: Settings, topic: str) -> list[bytes | None]:
    return [record.value async for record in read_topic(settings, topic)]


async def test_what_is_confirmed_is_there_with_its_key_headers_and_place(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    headers = (("a", b"\x00\xff"), ("a", b"twice"))
    place = await producer.send(OutRecord(topics.messages, b"v", b"k", headers, partition=2))
    assert (place.topic, place.partition, place.offset) == (topics.messages, 2, 0)
    [record] = [item async for item in read_topic(settings, topics.messages)]
    assert (record.key, record.value, tuple(record.headers)) == (b"k", b"v", headers)
    assert record.timestamp == place.timestamp_ms


async def test_a_key_chooses_the_partition_as_the_java_client_does(
    producer: Producer, topics: Topics
) -> None:
    # murmur2 of these keys over 4 partitions, as org.apache.kafka.common.utils.Utils computes it
    for key, partition in ((b"21", -973932308 & 0x7FFFFFFF), (b"foobar", -790332482 & 0x7FFFFFFF)):
        place = await producer.send(OutRecord(topics.messages, b"v", key))
        assert place.partition == partition % 4


async def test_many_records_together_keep_their_order(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    records = [OutRecord(topics.messages, b"%d" % number, partition=1) for number in range(3000)]
    places = await producer.send_all(records)
    assert [place.offset for place in places] == list(range(3000))
    assert await values(settings, topics.messages) == [record.value for record in records]
    assert producer.pending == 0


async def test_a_missing_topic_is_an_error_at_once_and_is_not_created(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    missing = f"{settings.topic_prefix}nobody-made-this"
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            await producer.send(OutRecord(missing, b"v"))
        assert caught.value.reason == "topic_missing"
        assert "notifyd topics create" in str(caught.value)
    with pytest.raises(PermanentError):
        await producer.partitions(missing)
    assert await producer.partitions(topics.events) == 4


async def test_a_record_larger_than_any_topic_takes_is_refused_and_the_others_go_through(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    huge = OutRecord(topics.dlq, b"x" * (dlq_max_bytes(settings) + 1))
    results = await producer.send_each([OutRecord(topics.dlq, b"1"), huge, OutRecord(topics.dlq, b"2")])
    assert [type(result) for result in results] == [RecordPlace, PermanentError, RecordPlace]
    assert isinstance(results[1], NotifydError)
    assert results[1].reason == "record_too_large"
    with pytest.raises(PermanentError):
        await producer.send_held([huge])


@pytest.mark.needs_kafka("the embedded broker takes records of any size")
async def test_a_record_that_the_broker_finds_too_large_does_not_stop_its_partition(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    # A refused batch leaves a hole in the sequence numbers; every later one would be refused as well.
    too_large = b"x" * (message_topic_max_bytes(settings) + 1000)
    with pytest.raises(PermanentError) as caught:
        await producer.send(OutRecord(topics.messages, too_large, partition=0))
    assert caught.value.reason == "record_too_large"
    for number in range(3):
        await producer.send(OutRecord(topics.messages, b"%d" % number, partition=0))
    assert await values(settings, topics.messages) == [b"0", b"1", b"2"]


async def test_the_largest_retry_and_dead_letter_records_fit(
    producer: Producer, settings: Settings, topics: Topics
) -> None:
    names = b"n" * (settings.message_max_recipients * settings.message_max_user_id_chars * 4)
    value = b"x" * message_topic_max_bytes(settings)
    await producer.send(OutRecord(topics.retry["5s"], value, headers=(("notifyd-users", names),)))
    await producer.send(
        OutRecord(topics.dlq, value, headers=(("notifyd-users", names), ("notifyd-error", b"e" * 1000)))
    )


async def test_an_unknown_partition_is_told(producer: Producer, topics: Topics) -> None:
    with pytest.raises(PermanentError, match="has no partition 77"):
        await producer.send(OutRecord(topics.messages, b"v", partition=77))


async def test_a_stopped_producer_says_so(producer: Producer, topics: Topics) -> None:
    await producer.stop(1)
    for work in (producer.send(OutRecord(topics.messages, b"v")), producer.send_held([OutRecord("t", b"v")])):
        with pytest.raises(TransientError) as caught:
            await work
        assert caught.value.reason == "producer_stopped"


async def test_every_record_is_counted_with_its_result(settings: Settings, topics: Topics) -> None:
    metrics = Metrics()
    producer = Producer(settings, metrics, client_id="test")
    await producer.start()
    try:
        await producer.send_all([OutRecord(topics.messages, b"v")] * 3)
        with pytest.raises(PermanentError):
            await producer.send(OutRecord("missing", b"v"))
    finally:
        await producer.stop(5)
    sample = metrics.registry.get_sample_value
    name = "notifyd_produced_records_total"
    assert sample(name, {"topic": topics.messages, "result": "confirmed"}) == 3
    assert sample(name, {"topic": "missing", "result": "topic_missing"}) == 1


async def test_a_late_broker_is_waited_for_with_one_line(tmp_path: Path) -> None:
    port = free_port()
    settings = settings_for(f"127.0.0.1:{port}", is_embedded=True, topic_prefix="late.")
    producer = Producer(settings, Metrics(), client_id="test")
    broker = EmbeddedBroker(tmp_path, port=port)
    with structlog.testing.capture_logs() as lines:
        starting = asyncio.create_task(producer.start())
        try:
            await eventually(lambda: any(line["event"] == "waiting_for_broker" for line in lines))
            done, _ = await asyncio.wait([starting], timeout=1.0)
            assert not done
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(starting, 30)
        finally:
            starting.cancel()
            await producer.stop(1)
            await asyncio.to_thread(broker.stop)
    assert [line["event"] for line in lines] == ["waiting_for_broker", "broker_found"]
    assert "connection refused" in lines[0]["detail"]
    assert "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS" in lines[0]["remedy"]


async def test_waiting_for_a_broker_ends_when_cancelled() -> None:
    settings = settings_for(f"127.0.0.1:{free_port()}", is_embedded=True, topic_prefix="x.")
    producer = Producer(settings, Metrics(), client_id="test")
    before = asyncio.all_tasks()
    starting = asyncio.create_task(producer.start())
    await asyncio.sleep(0.05)
    starting.cancel()
    await asyncio.wait([starting])
    await producer.stop(1)
    assert asyncio.all_tasks() == before


async def test_a_broker_without_idempotence_says_which_setting_to_change(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    settings = settings_for(
        await asyncio.to_thread(broker.start), is_embedded=True, topic_prefix="x.", kafka_idempotence=True
    )
    producer = Producer(settings, Metrics(), client_id="test")
    try:
        with pytest.raises(ConfigError, match="NOTIFYD_KAFKA_IDEMPOTENCE=false"):
            await producer.start()
    finally:
        await producer.stop(1)
        await asyncio.to_thread(broker.stop)
