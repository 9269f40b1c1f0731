"""Read a topic once, from its start to the end it had when we looked; for tools, not for roles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from notifyd.errors import PermanentError, TransientError
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, kafka_options, probe_broker

#: A broker that holds a record we may read hands it over within this time.
_POLL_MS: Final = 250
#: ... and gives so many at a time, between which others have their turn.
_POLL_RECORDS: Final = 500
#: So many empty polls in a row before the end, and we give up rather than wait for ever.
_EMPTY_POLLS: Final = 60
#: Polls after an end that may have been told too low: more than one fetch from each partition.
_END_POLLS: Final = 20


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer outside any group; errors of Kafka come out in our words."""
    await probe_broker(settings)
    consumer = AIOKafkaConsumer(
        client_id="notifyd-reader",
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        **kafka_options(settings),
    )
    try:
        await consumer.start()
        yield consumer
    except (kafka.KafkaError, OSError) as error:
        raise as_notifyd_error(error, "reading from Kafka") from error
    finally:
        await consumer.stop()


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    """List the partitions of a topic; `PermanentError` (`topic_missing`) if there is none."""
    # All metadata, not this topic's: asking for one by name would create it where the broker may.
    cluster = await consumer._client.fetch_all_metadata()
    partitions = cluster.partitions_for_topic(topic)
    if not partitions:
        raise PermanentError(
            f"topic {topic} is missing, or this client may not see it",
            reason="topic_missing",
            remedy="run `notifyd topics create`; NOTIFYD_TOPIC_PREFIX names it",
        )
    return sorted(partitions)


async def read_to_end(
    consumer: AIOKafkaConsumer,
    topic: str,
    partitions: Sequence[int] | None = None,
    *,
    start: Mapping[int, int] = MappingProxyType({}),
    since_ms: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[Any, None]:
    """Yield the records of a topic that were there when this was called, in order within a partition.

    `partitions`: those alone. `start`: the first offset of a partition that is wanted. `since_ms`: what is
    before the first record of that time (Unix ms) is left out, as far as the broker knows its place. It ends
    early once `is_over`.
    """
    began_ms = int(time.time() * 1000)
    numbers = await partitions_of(consumer, topic) if partitions is None else partitions
    tps = [TopicPartition(topic, number) for number in numbers]
    consumer.assign(tps)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(tps)
    starts: dict[TopicPartition, int] = await consumer.beginning_offsets(tps)
    if all(starts[tp] >= ends[tp] for tp in tps):
        return
    first = {tp: max(starts[tp], start.get(tp.partition, 0)) for tp in tps}
    if since_ms is not None:
        known = await consumer.offsets_for_times(dict.fromkeys(tps, since_ms))
        places = {tp: ends[tp] if found is None else found.offset for tp, found in known.items()}
        first = {tp: max(first[tp], places[tp]) for tp in tps}
    for tp in tps:
        # Beyond the end a consumer is sent back to the start of the log.
        consumer.seek(tp, min(first[tp], ends[tp]))
    empty = 0
    while not is_over():
        batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        is_new = False
        for tp, records in batches.items():
            for record in records:
                if is_over():
                    return
                # The embedded broker tells an end before the last batch's own end, so what is
                # past it counts too while it is older than our question.
                if record.offset >= first[tp] and (record.offset < ends[tp] or record.timestamp <= began_ms):
                    is_new = True
                    yield record
        if is_new:
            empty = 0
            # What was fetched already is handed over without a look at the loop.
            await asyncio.sleep(0)
            continue
        empty += 1
        # A position, not the last record's offset: markers of transactions and compaction leave holes.
        if all([await consumer.position(tp) >= ends[tp] for tp in tps]):
            return
        if empty > _EMPTY_POLLS:
            raise TransientError(f"{topic} could not be read to its end", reason="broker_unavailable")


async def read_ends(settings: Settings, told: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Find the ends of partitions by reading on from what the broker tells.

    After a batch of many records the embedded broker tells the end of its first one.
    """
    if not told:
        return {}
    async with reader(settings) as consumer:
        consumer.assign(list(told))
        for tp, offset in told.items():
            consumer.seek(tp, offset)
        # While others write this moves on; a few rounds see all that was there when it began.
        for _ in range(_END_POLLS):
            if not await consumer.getmany(timeout_ms=_POLL_MS):
                break
        return {tp: await consumer.position(tp) for tp in told}


async def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Return per partition the offset after the last record that is there now."""
    async with reader(settings) as consumer:
        tps = [TopicPartition(topic, number) for number in await partitions_of(consumer, topic)]
        ends: dict[TopicPartition, int] = await consumer.end_offsets(tps)
    if not settings.kafka_idempotence:  # the mark of the embedded broker
        ends = await read_ends(settings, ends)
    return {tp.partition: end for tp, end in ends.items()}


async def read_topic(
    settings: Settings, topic: str, partitions: Sequence[int] | None = None, **only: Any
) -> AsyncGenerator[Any, None]:
    """Open a reader and yield the records of a topic, as `read_to_end`."""
    async with (
        reader(settings) as consumer,
        aclosing(read_to_end(consumer, topic, partitions, **only)) as records,
    ):
        async for record in records:
            yield record
