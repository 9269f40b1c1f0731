"""The one producer of a process: acks=all, idempotent, bounded, and never in doubt without saying so.

aiokafka's producer does the work; what is added here:

- a limit to what is in flight, and to how long anybody waits for it;
- a new inner producer when idempotence has broken for good: after a sequence error aiokafka would
  fail every later batch of that partition;
- a topic that does not exist is an error at once, and is never created by asking for it;
- a stop that ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import RecordMetadata

from notifyd.errors import ConfigError, NotifydError, PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, backoff_s, kafka_options, wait_for_broker
from notifyd.stream.topics import dlq_max_bytes

#: After one of these the inner producer's sequence numbers are of no use any more. The broker has
#: not written the record, so that it may be sent again by a new one.
_BROKEN_SEQUENCE: Final = (
    kafka.OutOfOrderSequenceNumber,
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.UnknownProducerId,
)
#: How long a topic may be unknown before it counts as missing: a new topic takes a moment to show.
_TOPIC_WAIT_S: Final = 2.0
_BATCH_BYTES: Final = 128 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to write. Without `partition` the key chooses it (murmur2, as the Java client)."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where the broker put a record."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Producer:
    """Writes records, and returns once the broker has them on all in-sync replicas.

    Errors: `TransientError` with reason `broker_unavailable`, `producer_timeout` (handed over, not
    confirmed: the record may still arrive) or `buffer_full`; `PermanentError` with reason
    `record_too_large`, `topic_missing`, `not_authorised`, ...; `ConfigError` where the broker
    refuses us.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, client_id: str) -> None:
        self._settings = settings
        self._metrics = metrics
        self._client_id = client_id
        self._logger = get_logger()
        self._inner: AIOKafkaProducer | None = None
        self._rebuilding = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(settings.producer_max_pending)
        self._pending: set[asyncio.Future[RecordMetadata]] = set()
        self._known_topics: set[str] = set()
        self._is_stopping = False

    @property
    def pending(self) -> int:
        """Records handed over and not yet confirmed."""
        return len(self._pending)

    async def start(self) -> None:
        """Return once connected. Waits for a late broker, which it logs once; `ConfigError` if refused."""
        self._inner = await self._build()

    async def stop(self, flush_s: float) -> None:
        """Let go within about `flush_s` seconds; what is not confirmed by then fails, and is logged."""
        self._is_stopping = True
        if self._pending:
            await asyncio.wait(self._pending, timeout=flush_s)
        left = len(self._pending)
        inner, self._inner = self._inner, None
        for future in tuple(self._pending):
            # Whoever still waits learns it now: aiokafka would leave these futures open for ever.
            if not future.done():
                future.set_exception(kafka.ProducerClosed())
        if inner is not None:
            await _close(inner)
        for task in tuple(self._retiring):
            task.cancel()
        if self._retiring:
            await asyncio.wait(tuple(self._retiring), timeout=1.0)
        if left:
            self._logger.warning(
                "producer_stopped_with_unconfirmed_records",
                records=left,
                detail="they may still arrive; the same UUID makes a repetition harmless",
            )

    async def send(self, record: OutRecord, *, timeout_s: float | None = None) -> RecordPlace:
        """Write one record; return its place once the broker confirmed it."""
        limit = self._settings.producer_timeout_s if timeout_s is None else timeout_s
        result = (await self._send_each((record,), limit))[0]
        if isinstance(result, NotifydError):
            raise result
        return result

    async def send_all(self, records: Sequence[OutRecord]) -> list[RecordPlace]:
        """Write records together; raises the first error, in their order, after all of them ended."""
        results = await self._send_each(records, self._settings.producer_timeout_s)
        places = []
        for result in results:
            if isinstance(result, NotifydError):
                raise result
            places.append(result)
        return places

    async def send_held(self, records: Sequence[OutRecord]) -> list[RecordPlace]:
        """Write records, however long the broker is away; for roles, whose input waits meanwhile.

        What was confirmed is not written again. Cancel it to give up. Raises `PermanentError` and
        `ConfigError`, which no waiting mends.
        """
        places: dict[int, RecordPlace] = {}
        attempt = 0
        while True:
            open_numbers = [number for number in range(len(records)) if number not in places]
            results = await self._send_each(
                [records[number] for number in open_numbers], self._settings.producer_timeout_s
            )
            failure: TransientError | None = None
            for number, result in zip(open_numbers, results, strict=True):
                if isinstance(result, RecordPlace):
                    places[number] = result
                elif isinstance(result, TransientError):
                    failure = failure or result
                else:
                    raise result
            if failure is None:
                if attempt:
                    self._logger.info("producing_again", attempts=attempt + 1, records=len(records))
                return [places[number] for number in range(len(records))]
            if self._is_stopping:
                raise failure
            if attempt == 0:
                self._logger.warning(
                    "waiting_to_produce", reason=failure.reason, detail=failure.message, records=len(records)
                )
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1

    async def partitions(self, topic: str) -> int:
        """Count the partitions of a topic; `PermanentError` (`topic_missing`) if there is none."""
        inner = await self._current()
        try:
            async with asyncio.timeout(self._settings.producer_timeout_s):
                await self._find_topic(inner, topic)
                return len(await inner.partitions_for(topic))
        except (kafka.KafkaError, OSError, TimeoutError) as error:
            raise as_notifyd_error(error, f"partitions of {topic}") from error

    # How one round of sending goes: hand over in order, then wait for all of them together.

    async def _send_each(
        self, records: Sequence[OutRecord], limit_s: float
    ) -> list[RecordPlace | NotifydError]:
        """Send each record once; again only where a broken sequence kept the broker from writing it."""
        deadline = time.monotonic() + limit_s
        results: dict[int, RecordPlace | NotifydError] = {}
        todo = list(range(len(records)))
        while todo:
            began = time.monotonic()
            inner: AIOKafkaProducer | None = None
            futures: dict[int, asyncio.Future[RecordMetadata]] = {}
            broken = []
            for number in todo:
                try:
                    inner = await self._within(self._current(), deadline, "broker_unavailable")
                    futures[number] = await self._hand_over(inner, records[number], deadline)
                except _BROKEN_SEQUENCE:
                    broken.append(number)
                except NotifydError as error:
                    results[number] = error
            if futures:
                await asyncio.wait(futures.values(), timeout=max(0.0, deadline - time.monotonic()))
            took_s = time.monotonic() - began
            for number, future in futures.items():
                outcome = self._outcome(records[number], future, limit_s)
                if outcome is None:
                    broken.append(number)
                else:
                    results[number] = outcome
                    self._count(records[number].topic, outcome, took_s)
            if broken and inner is not None and not await self._replace(inner, deadline):
                results.update({number: _not_confirmed(records[number], limit_s) for number in broken})
                broken = []
            todo = sorted(broken)
        return [results[number] for number in range(len(records))]

    def _outcome(
        self, record: OutRecord, future: asyncio.Future[RecordMetadata], limit_s: float
    ) -> RecordPlace | NotifydError | None:
        """Read a future; None: the sequence is broken, and the record was not written."""
        if not future.done():
            return _not_confirmed(record, limit_s)
        error = future.exception() if not future.cancelled() else kafka.ProducerClosed()
        if error is None:
            meta = future.result()
            return RecordPlace(meta.topic, meta.partition, meta.offset, meta.timestamp)
        if isinstance(error, _BROKEN_SEQUENCE):
            return None
        if isinstance(error, kafka.ProducerClosed):
            return _stopped()
        return as_notifyd_error(error, f"writing to {record.topic}")

    async def _hand_over(
        self, inner: AIOKafkaProducer, record: OutRecord, deadline: float
    ) -> asyncio.Future[RecordMetadata]:
        """Put a record into the inner producer's buffer; it holds a slot until it has ended for good."""
        if record.value is None and record.key is None:
            raise PermanentError("a record needs a key or a value", reason="broker_refused")
        await self._within(self._slots.acquire(), deadline, "buffer_full")
        try:
            if record.topic not in self._known_topics:
                await self._within(self._find_topic(inner, record.topic), deadline, "broker_unavailable")
            future: asyncio.Future[RecordMetadata] = await self._within(
                inner.send(
                    record.topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                ),
                deadline,
                "buffer_full",
            )
        except BaseException as error:
            self._slots.release()
            if isinstance(error, _BROKEN_SEQUENCE):
                raise
            if isinstance(error, kafka.ProducerClosed):
                raise _stopped() from error
            if isinstance(error, AssertionError):
                raise PermanentError(
                    f"{record.topic} has no partition {record.partition}", reason="topic_missing"
                ) from error
            if isinstance(error, (kafka.KafkaError, OSError)):
                raise as_notifyd_error(error, f"writing to {record.topic}") from error
            raise
        self._pending.add(future)
        future.add_done_callback(self._release)
        return future

    def _release(self, future: asyncio.Future[RecordMetadata]) -> None:
        self._pending.discard(future)
        self._slots.release()
        if not future.cancelled():
            # Nobody may be listening any more (cancelled, timed out): that is no "never retrieved".
            future.exception()

    async def _find_topic(self, inner: AIOKafkaProducer, topic: str) -> None:
        """Make sure that a topic exists, without asking for it by name, which could create it."""
        until = time.monotonic() + _TOPIC_WAIT_S
        while True:
            cluster = await inner.client.fetch_all_metadata()
            if cluster.partitions_for_topic(topic):
                self._known_topics.add(topic)
                return
            if time.monotonic() >= until:
                raise PermanentError(
                    f"topic {topic} is missing, or this client may not see it",
                    reason="topic_missing",
                    remedy="run `notifyd topics create`; NOTIFYD_TOPIC_PREFIX names it",
                )
            await asyncio.sleep(0.1)

    async def _within(self, work: Awaitable[T], deadline: float, reason: str) -> T:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await work
        except TimeoutError as error:
            if reason == "buffer_full":
                raise TransientError(
                    f"{self.pending} records wait for the broker already",
                    reason=reason,
                    remedy="send slower, or raise NOTIFYD_PRODUCER_MAX_PENDING",
                ) from error
            raise TransientError(
                "the broker does not answer", reason=reason, remedy="is it up and reachable?"
            ) from error

    def _count(self, topic: str, outcome: RecordPlace | NotifydError, took_s: float) -> None:
        if isinstance(outcome, RecordPlace):
            self._metrics.produced.labels(topic, "confirmed").inc()
            self._metrics.produce_seconds.labels(topic).observe(took_s)
        else:
            self._metrics.produced.labels(topic, outcome.reason).inc()

    # The inner producer and its replacement.

    async def _current(self) -> AIOKafkaProducer:
        if self._inner is not None and not self._rebuilding.locked():
            return self._inner
        async with self._rebuilding:
            if self._inner is None:
                raise _stopped()
            return self._inner

    async def _replace(self, broken: AIOKafkaProducer, deadline: float) -> bool:
        """Put a new inner producer in place of a broken one; false: no time was left for it."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._rebuilding:
                if self._inner is not broken or self._is_stopping:
                    return True
                self._logger.warning(
                    "producer_rebuilt", detail="the broker accepts this producer's sequence numbers no more"
                )
                self._inner = await self._build()
        except TimeoutError:
            return False
        task = asyncio.create_task(_retire(broken, self._settings.producer_timeout_s))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return True

    async def _build(self) -> AIOKafkaProducer:
        attempt = 0
        while True:
            await wait_for_broker(self._settings)
            inner = AIOKafkaProducer(
                client_id=self._client_id,
                acks="all",
                enable_idempotence=self._settings.kafka_idempotence,
                max_request_size=dlq_max_bytes(self._settings),
                max_batch_size=_BATCH_BYTES,
                **kafka_options(self._settings),
            )
            try:
                await inner.start()
            except BaseException as error:
                await _close(inner)
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


def _not_confirmed(record: OutRecord, limit_s: float) -> TransientError:
    return TransientError(
        f"a record for {record.topic} was not confirmed within {limit_s:g} s: it may still arrive",
        reason="producer_timeout",
        remedy="send it again with the same UUID",
    )


def _stopped() -> TransientError:
    return TransientError(
        "the producer is stopped: what it had not confirmed may still arrive",
        reason="producer_stopped",
        remedy="send it again with the same UUID",
    )


async def _retire(inner: AIOKafkaProducer, limit_s: float) -> None:
    """Let a replaced producer end what other partitions still have in flight, then close it."""
    try:
        async with asyncio.timeout(limit_s):
            await inner.flush()
    except TimeoutError:
        pass
    finally:
        await _close(inner)


async def _close(inner: AIOKafkaProducer) -> None:
    """Close without a flush, in bounded time: aiokafka's own `stop` waits for as long as a broker is away."""
    inner._closed = True
    client, sender = inner.client, inner._sender
    inner._message_accumulator._closed = True
    await _briefly(client.close())
    # Requests in flight end in a wait for metadata that no one will fetch any more.
    if client._md_update_fut is not None and not client._md_update_fut.done():
        client._md_update_fut.set_result(False)
    task = sender.sender_task
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
