"""aiokafka's producer, as ours needs it: built with our settings, known when broken, closed in bounded time.

The private seams of aiokafka that this touches have tests in `tests/unit/producer/test_producer_seams.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from notifyd.errors import ConfigError, NotifydError, TransientError
from notifyd.settings import Settings
from notifyd.stream.clients import (
    as_notifyd_error,
    backoff_s,
    kafka_options,
    probe_broker,
    probe_hosts,
    wait_for_broker,
)
from notifyd.stream.topics import dlq_max_bytes

#: After one of these a producer's sequence numbers are of no use any more: aiokafka would fail every
#: later batch of that partition. The broker has not written the record, so it may be sent again.
_BROKEN_SEQUENCE: Final = (
    kafka.OutOfOrderSequenceNumber,
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.UnknownProducerId,
)
#: Of one partition in one request. Measured with 500 records of 600 bytes at a time on three partitions:
#: a tenth faster than aiokafka's 16 KiB, and no faster with 512 KiB.
_BATCH_BYTES: Final = 128 * 1024


async def build_inner(settings: Settings, client_id: str) -> AIOKafkaProducer:
    """Start a producer; waits for a late broker. Raises `ConfigError` or `PermanentError` if refused."""
    attempt = 0
    while True:
        await wait_for_broker(settings)
        inner = AIOKafkaProducer(
            client_id=client_id,
            acks="all",
            enable_idempotence=settings.kafka_idempotence,
            max_request_size=dlq_max_bytes(settings),
            max_batch_size=_BATCH_BYTES,
            **kafka_options(settings),
        )
        try:
            await inner.start()
        except BaseException as error:
            await close_inner(inner)
            if isinstance(error, (kafka.UnsupportedVersionError, kafka.UnknownError)):
                # What a broker says that knows no InitProducerId, the embedded one for example.
                raise ConfigError(
                    "this broker has no idempotent producers",
                    reason="no_idempotence",
                    remedy="set NOTIFYD_KAFKA_IDEMPOTENCE=false, for development only",
                ) from error
            if not isinstance(error, (kafka.KafkaError, OSError)):
                raise
            found = as_notifyd_error(error, "starting the producer")
            if not isinstance(found, TransientError):
                raise found from error
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1
        else:
            return inner


def is_broken(inner: AIOKafkaProducer, error: BaseException) -> bool:
    """Whether no later record can get through `inner`: a sequence lost, or its sender task ended."""
    if isinstance(error, _BROKEN_SEQUENCE):
        return True
    task = inner._sender.sender_task
    return isinstance(error, kafka.KafkaError) and not inner._closed and task is not None and task.done()


async def is_lost(inner: AIOKafkaProducer, settings: Settings) -> bool:
    """Whether `inner` knows no living broker any more although the bootstrap servers lead to one.

    aiokafka keeps to the addresses it learnt last; where all of them have changed, only a new start helps.
    """
    known = [(broker.host, broker.port) for broker in inner.client.cluster.brokers()]
    try:
        await probe_hosts(settings, known)
    except NotifydError:
        try:
            await probe_broker(settings)
        except NotifydError:
            return False
        return True
    return False


async def retire_inner(inner: AIOKafkaProducer, limit_s: float) -> None:
    """Let a replaced producer end what it still has in flight for other partitions, then close it."""
    try:
        async with asyncio.timeout(limit_s):
            await inner.flush()
    except TimeoutError:
        pass
    finally:
        await close_inner(inner)


async def close_inner(inner: AIOKafkaProducer) -> None:
    """Close without a flush, in bounded time: aiokafka's own `stop` waits for as long as a broker is away."""
    inner._closed = True
    client, task = inner.client, inner._sender.sender_task
    inner._message_accumulator._closed = True
    await _briefly(client.close())
    # Requests in flight end in a wait for metadata that no one will fetch any more.
    if client._md_update_fut is not None and not client._md_update_fut.done():
        client._md_update_fut.set_result(False)
    for _ in range(20):
        if task is None or task.done():
            break
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


async def _briefly(work: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(2.0):
            await work
    except (TimeoutError, kafka.KafkaError, OSError):
        pass
