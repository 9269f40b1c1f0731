"""Records of many writers handed over together: each waits for its own, whatever becomes of the others'."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import structlog
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from notifyd.dev.kafka import LocalKafka
from notifyd.errors import PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.held_writer import HeldWriter
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.topics import Topics, create_topics, dlq_max_bytes
from tests.fixtures.kafka import settings_for
from tests.fixtures.waiting import eventually
from tests.fixtures.written import count_of, running_producer, write_through_kills


@pytest.fixture
async def topic(settings: Settings) -> str:
    await create_topics(settings)
    return Topics.of(settings).messages


@pytest.fixture
async def producer(settings: Settings, topic: str) -> AsyncIterator[Producer]:
    async with running_producer(settings) as found:
        yield found


async def test_what_comes_together_is_written_once_each_and_counted(
    settings: Settings, producer: Producer, topic: str
) -> None:
    writer = HeldWriter(producer, 0.01, patience_s=5)
    pairs = [[OutRecord(topic, b"%d-%d" % (number, part)) for part in range(2)] for number in range(500)]
    await asyncio.gather(*(writer.write(pair) for pair in pairs))
    assert await count_of(settings) == Counter([record.value for pair in pairs for record in pair])
    assert producer._meters(topic)[0]._value.get() == 1000


async def test_many_who_write_their_first_record_to_a_topic_ask_for_it_once(
    producer: Producer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, questions = producer._inner.client, []
    ask = client.fetch_all_metadata

    async def counted() -> object:
        questions.append(topic)
        return await ask()

    monkeypatch.setattr(client, "fetch_all_metadata", counted)
    await asyncio.gather(*(producer.send(OutRecord(topic, b"%d" % number)) for number in range(200)))
    assert len(questions) == 1


async def test_a_question_that_hangs_with_a_replaced_client_holds_up_nobody(
    producer: Producer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = producer._inner
    assert replaced is not None
    monkeypatch.setattr(replaced.client, "fetch_all_metadata", asyncio.Event().wait)
    waiting = asyncio.create_task(producer.send_held([OutRecord(topic, b"before")]))
    await eventually(lambda: bool(producer._finding), what="the question")
    await producer._replace(replaced, time.monotonic() + 30, "a test")
    await producer.send(OutRecord(topic, b"after"), timeout_s=20)
    waiting.cancel()
    for finding in producer._finding.values():
        finding.cancel()


async def test_a_partition_without_a_leader_is_told_of_once_while_others_go_on(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer(settings.model_copy(update={"producer_timeout_s": 0.3}), Metrics(), client_id="test")
    await producer.start()
    await producer.send(OutRecord(topic, b"first"), timeout_s=20)
    assert producer._inner is not None
    cluster = producer._inner.client.cluster
    leader_of = cluster.leader_for_partition

    def leader_but_of_0(tp: TopicPartition) -> int | None:
        return None if tp == TopicPartition(topic, 0) else leader_of(tp)

    with structlog.testing.capture_logs() as lines:
        with monkeypatch.context() as patched:
            patched.setattr(cluster, "leader_for_partition", leader_but_of_0)
            waiting = [
                asyncio.create_task(producer.send_held([OutRecord(topic, b"%d" % number, partition=0)]))
                for number in range(20)
            ]
            for _ in range(20):
                await producer.send_held([OutRecord(topic, b"beside", partition=1)])
                await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
        await asyncio.wait_for(asyncio.gather(*waiting), 60)
    await producer.stop(1)
    assert [line["event"] for line in lines] == ["waiting_to_produce", "producing_again"]


async def test_who_gave_up_before_the_handing_over_is_not_written(
    settings: Settings, producer: Producer, topic: str
) -> None:
    writer = HeldWriter(producer, 0.2, patience_s=5)
    writing = [asyncio.create_task(writer.write([OutRecord(topic, b"%d" % number)])) for number in range(4)]
    await asyncio.sleep(0)
    writing[1].cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    assert [task.cancelled() for task in writing] == [False, True, False, False]
    assert await count_of(settings) == Counter([b"0", b"2", b"3"])


async def test_one_that_can_never_be_written_is_the_error_of_its_own_writer_alone(
    settings: Settings, producer: Producer, topic: str
) -> None:
    writer = HeldWriter(producer, 0.01, patience_s=5)
    huge = OutRecord(topic, b"x" * (dlq_max_bytes(settings) + 1))
    missing = OutRecord(f"{topic}-nobody-made-this", b"v")
    results = await asyncio.gather(
        writer.write([OutRecord(topic, b"before")]),
        writer.write([OutRecord(topic, b"beside"), huge]),
        writer.write([missing]),
        writer.write([OutRecord(topic, b"after")]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), PermanentError, PermanentError, type(None)]
    assert [getattr(result, "reason", None) for result in results[1:3]] == [
        "record_too_large",
        "topic_missing",
    ]
    assert await count_of(settings) == Counter([b"before", b"beside", b"after"])


# With a broker of its own


@dataclass(frozen=True)
class Faulty:
    """A writer with a buffer of 200 records, on a broker to kill and freeze; it has written `first`."""

    settings: Settings
    producer: Producer
    writer: HeldWriter
    topic: str

    def begin(self, value: bytes) -> asyncio.Task[None]:
        """Begin to write one record."""
        return asyncio.create_task(self.writer.write([OutRecord(self.topic, value)]))

    async def fill(self) -> list[asyncio.Task[None]]:
        """Begin to write 200 records, and return once all are handed over."""
        writing = [self.begin(b"%d" % number) for number in range(200)]
        await eventually(lambda: self.producer.pending == 200, what="the buffer to fill")
        return writing

    async def wait_for_room(self) -> None:
        """Return once one waits for room in the buffer."""
        await eventually(lambda: bool(self.producer._slots._waiters), what="one to wait for room")


@pytest.fixture
async def faulty(own_kafka: LocalKafka, topic_prefix: str) -> AsyncIterator[Faulty]:
    settings = settings_for(
        own_kafka.bootstrap_servers,
        is_embedded=False,
        topic_prefix=topic_prefix,
        producer_timeout_s=1.0,
        producer_max_pending=200,
    )
    await create_topics(settings)
    async with running_producer(settings) as producer:
        writer = HeldWriter(producer, 0.01, patience_s=settings.producer_timeout_s)
        topic = Topics.of(settings).messages
        await writer.write([OutRecord(topic, b"first")])
        yield Faulty(settings, producer, writer, topic)


async def test_a_broker_killed_in_between_loses_nothing_and_doubles_nothing(
    own_kafka: LocalKafka, faulty: Faulty
) -> None:
    await write_through_kills(
        own_kafka, faulty.settings, lambda record: faulty.writer.write([record]), writers=50, each=300
    )


async def test_a_freeze_is_waited_out_with_one_line_and_who_gave_up_in_it_is_not_written(
    own_kafka: LocalKafka, faulty: Faulty
) -> None:
    with structlog.testing.capture_logs() as lines:
        own_kafka.pause()
        try:
            # More than the buffer holds: the last ones are not handed over while the broker stands still.
            writing = [faulty.begin(b"%d" % number) for number in range(220)]
            await eventually(lambda: bool(lines), timeout_s=20)
            assert not any(task.done() for task in writing)
            assert faulty.producer.pending == 200
            for task in writing[210:]:
                task.cancel()
            await asyncio.wait(writing[210:])
        finally:
            own_kafka.resume()
        await asyncio.wait_for(asyncio.gather(*writing[:210]), 60)
    assert [line["event"] for line in lines] == ["waiting_to_produce", "producing_again"]
    assert await count_of(faulty.settings) == Counter([b"first", *(b"%d" % number for number in range(210))])


async def test_who_gives_up_while_it_waits_for_room_is_not_written_and_who_is_behind_it_is(
    own_kafka: LocalKafka, faulty: Faulty
) -> None:
    own_kafka.pause()
    try:
        writing = await faulty.fill()
        late, behind = faulty.begin(b"late"), faulty.begin(b"behind")
        await faulty.wait_for_room()
        late.cancel()
        await asyncio.wait([late])
    finally:
        own_kafka.resume()
    await asyncio.wait_for(asyncio.gather(*writing, behind), 60)
    expected = [b"first", b"behind", *(b"%d" % number for number in range(200))]
    assert await count_of(faulty.settings) == Counter(expected)


async def test_what_waits_for_room_while_the_one_before_it_fails_is_written_once(
    own_kafka: LocalKafka, faulty: Faulty
) -> None:
    under_way, fails, waits = (
        OutRecord(faulty.topic, byte * 100_000, partition=0) for byte in (b"u", b"f", b"w")
    )
    own_kafka.pause()
    try:
        # The first one is sent and not answered, the second one fills what may be sent next.
        first = asyncio.create_task(faulty.writer.write([under_way]))
        await eventually(lambda: bool(faulty.producer._inner._sender._muted_partitions), what="a request")
        pair = asyncio.create_task(faulty.writer.write([fails, waits]))
        await eventually(lambda: faulty.producer.pending == 2, what="all to be handed over but the last one")
        await asyncio.sleep(0.1)
        list(faulty.producer._pending)[-1].set_exception(kafka.RequestTimedOutError())
        await asyncio.sleep(0.1)
    finally:
        own_kafka.resume()
    await asyncio.wait_for(asyncio.gather(first, pair), 60)
    assert (await count_of(faulty.settings))[waits.value] == 1


async def test_a_stop_of_the_producer_ends_all_who_wait(own_kafka: LocalKafka, faulty: Faulty) -> None:
    own_kafka.pause()
    try:
        writing = await faulty.fill()
        writing += [faulty.begin(b"late") for _ in range(20)]
        await faulty.wait_for_room()
        writing.append(faulty.begin(b"latest"))
        await faulty.producer.stop(0.1)
        outcomes = await asyncio.wait_for(asyncio.gather(*writing, return_exceptions=True), 10)
    finally:
        own_kafka.resume()
    assert Counter(getattr(outcome, "reason", "") for outcome in outcomes) == {"producer_stopped": 221}
    await eventually(lambda: not faulty.writer._goings, what="the handing over to end")
