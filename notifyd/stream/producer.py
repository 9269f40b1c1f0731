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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import RecordMetadata
from prometheus_client import Counter, Histogram

from notifyd.errors import NotifydError, PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, backoff_s
from notifyd.stream.inner_producer import build_inner, close_inner, is_broken, is_lost, retire_inner
from notifyd.stream.records import OutRecord, RecordPlace, no_room, not_confirmed, stopped

__all__ = ["Flight", "OutRecord", "Producer", "RecordPlace"]

#: How long a topic may be unknown before it counts as missing: a new topic takes a moment to show.
_TOPIC_WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Flight:
    """A record handed over: its future, the inner producer that has it, since when (monotonic, s)."""

    future: asyncio.Future[RecordMetadata]
    inner: AIOKafkaProducer
    began: float


class _BrokenError(Exception):
    """The inner producer can write no more; this record it has not."""

    def __init__(self, inner: AIOKafkaProducer) -> None:
        super().__init__()
        self.inner = inner


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
        self._rebuilds = 0
        #: Writers that were told to wait, each once.
        self._waiting = 0
        self._slots = asyncio.Semaphore(settings.producer_max_pending)
        self._pending: dict[asyncio.Future[RecordMetadata], AIOKafkaProducer] = {}
        self._known_topics: set[str] = set()
        self._finding: dict[tuple[AIOKafkaProducer, str], asyncio.Task[None]] = {}
        self._meters_of: dict[str, tuple[Counter, Histogram]] = {}
        self._stopping = asyncio.Event()

    @property
    def pending(self) -> int:
        """Records handed over and not yet confirmed."""
        return len(self._pending)

    async def start(self) -> None:
        """Return once connected. Waits for a late broker, which it logs once; `ConfigError` if refused."""
        self._inner = await build_inner(self._settings, self._client_id)
        self._metrics.produce_pending.set_function(lambda: self.pending)

    async def stop(self, flush_s: float) -> None:
        """Let go within about `flush_s` seconds; what is not confirmed by then fails, and is logged."""
        self._stopping.set()
        if self._pending:
            await asyncio.wait(self._pending, timeout=flush_s)
        left = len(self._pending)
        inner, self._inner = self._inner, None
        for each in {inner, *self._pending.values()}:
            self._give_up(each, kafka.ProducerClosed())
        if inner is not None:
            await close_inner(inner)
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
        result = (await self.send_each((record,), timeout_s=timeout_s))[0]
        if isinstance(result, NotifydError):
            raise result
        return result

    async def send_all(self, records: Sequence[OutRecord]) -> list[RecordPlace]:
        """Write records together; raises the first error, in their order, after all of them ended."""
        places = []
        for result in await self.send_each(records):
            if isinstance(result, NotifydError):
                raise result
            places.append(result)
        return places

    async def send_held(
        self, records: Sequence[OutRecord], flights: dict[int, Flight] | None = None
    ) -> list[RecordPlace]:
        """Write records, however long the broker is away; for roles, whose input waits meanwhile.

        What was handed over is waited for, not written again; so are `flights`, by number, of records
        handed over before. Cancel it to give up. Raises `PermanentError` and `ConfigError`, which no
        waiting mends.
        """
        places: dict[int, RecordPlace] = {}
        flights = flights or {}
        limit_s = self._settings.producer_timeout_s
        began = min((flight.began for flight in flights.values()), default=time.monotonic())
        attempt = 0
        is_waiting = False
        try:
            while True:
                todo = [number for number in range(len(records)) if number not in places]
                ended = await self._round(records, todo, flights, began + limit_s)
                failure: NotifydError | None = None
                for number, result in ended.items():
                    if isinstance(result, RecordPlace):
                        places[number] = result
                    elif isinstance(result, TransientError):
                        failure = failure or result
                    else:
                        raise result
                if len(places) == len(records):
                    if is_waiting and self._waiting == 1:
                        self._logger.info("producing_again")
                    return [places[number] for number in range(len(records))]
                if failure is not None and self._stopping.is_set():
                    raise failure
                if not is_waiting:
                    is_waiting = True
                    self._begin_to_wait(failure or not_confirmed(records[todo[0]], limit_s))
                if failure is not None:
                    await asyncio.sleep(backoff_s(attempt))
                for inner in {flight.inner for flight in flights.values()}:
                    await self._leave_if_lost(inner)
                attempt += 1
                began = time.monotonic()
        finally:
            self._waiting -= is_waiting

    def _begin_to_wait(self, failure: NotifydError) -> None:
        self._waiting += 1
        if self._waiting == 1:
            # Once for the producer, however many wait, and while others go on beside them.
            self._logger.warning("waiting_to_produce", reason=failure.reason, detail=failure.message)

    async def begin(self, record: OutRecord) -> Flight | None:
        """Hand over one record, for who waits for its flight; None where `send_held` has to see to it."""
        try:
            return await self._hand_over(record)
        except (_BrokenError, NotifydError):
            return None

    def count_landed(self, records: Sequence[OutRecord], flights: Mapping[int, Flight]) -> None:
        """Count records that `begin` handed over, and that the broker has."""
        for number, flight in flights.items():
            self._outcome(records[number], flight)

    async def partitions(self, topic: str) -> int:
        """Count the partitions of a topic; `PermanentError` (`topic_missing`) if there is none."""
        inner = await self._current()
        try:
            async with asyncio.timeout(self._settings.producer_timeout_s):
                await self._learn(inner, topic)
                return len(await inner.partitions_for(topic))
        except (kafka.KafkaError, OSError, TimeoutError) as error:
            raise as_notifyd_error(error, f"partitions of {topic}") from error

    async def recover(self) -> None:
        """Start anew where no broker is left that this producer knew, and others answer.

        `send_held` sees to that by itself; it is for who sends with a limit, and finds the broker away.
        """
        if self._inner is not None:
            await self._leave_if_lost(self._inner)

    async def send_each(
        self, records: Sequence[OutRecord], *, timeout_s: float | None = None
    ) -> list[RecordPlace | NotifydError]:
        """Write records together; return the place or the error of each, once all of them ended.

        Handed over in order; again only where a broken sequence kept the broker from writing.
        """
        limit_s = self._settings.producer_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        results: dict[int, RecordPlace | NotifydError] = {}
        flights: dict[int, Flight] = {}
        while todo := [number for number in range(len(records)) if number not in results]:
            results.update(await self._round(records, todo, flights, deadline))
            if time.monotonic() >= deadline:
                for number in todo:
                    if number not in results:
                        results[number] = not_confirmed(records[number], limit_s)
        for number, result in results.items():
            if isinstance(result, NotifydError):
                self._metrics.produced.labels(records[number].topic, result.reason).inc()
        return [results[number] for number in range(len(records))]

    # One round: hand over in order what is not yet in flight, then wait for all of it together.

    async def _round(
        self,
        records: Sequence[OutRecord],
        todo: Sequence[int],
        flights: dict[int, Flight],
        deadline: float,
    ) -> dict[int, RecordPlace | NotifydError]:
        """Return what ended, by number.

        What is still in doubt at the deadline stays in `flights`; what is neither here nor there was
        not written because the inner producer broke, which by then has been replaced.
        """
        ended: dict[int, RecordPlace | NotifydError] = {}
        broken = await self._hand_over_all(records, todo, flights, ended, deadline)
        if flights:
            waiting = [flight.future for flight in flights.values()]
            await asyncio.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        for number, flight in tuple(flights.items()):
            if flight.future.done():
                del flights[number]
                outcome = self._outcome(records[number], flight)
                if outcome is None:
                    broken = flight.inner
                else:
                    ended[number] = outcome
        if broken is not None:
            await self._replace(broken, deadline, "its sequence was refused, or its sender ended")
        return ended

    async def _hand_over_all(
        self,
        records: Sequence[OutRecord],
        todo: Sequence[int],
        flights: dict[int, Flight],
        ended: dict[int, RecordPlace | NotifydError],
        deadline: float,
    ) -> AIOKafkaProducer | None:
        """Fill `flights`, and `ended` with what could not be handed over; return a broken inner producer."""
        number = -1
        try:
            # One limit for the whole round: three for each record cost as much as sending it.
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                for number in todo:
                    if number in flights:
                        continue
                    try:
                        flights[number] = await self._hand_over(records[number])
                    except _BrokenError as error:
                        return error.inner
                    except NotifydError as error:
                        ended[number] = error
        except TimeoutError:
            # Nothing after this one was tried either, and none of them was handed over.
            late = no_room(self.pending if self._slots.locked() else 0)
            ended.update({number: late for number in todo[todo.index(number) :] if number not in flights})
        return None

    def _outcome(self, record: OutRecord, flight: Flight) -> RecordPlace | NotifydError | None:
        """Read a future that is done; None: its producer is broken, the record is to be sent again."""
        future = flight.future
        error = future.exception() if not future.cancelled() else kafka.ProducerClosed()
        if error is None:
            meta = future.result()
            self._rebuilds = 0
            counted, timed = self._meters(record.topic)
            counted.inc()
            timed.observe(time.monotonic() - flight.began)
            return RecordPlace(meta.topic, meta.partition, meta.offset, meta.timestamp)
        if is_broken(flight.inner, error):
            return None
        if isinstance(error, kafka.ProducerClosed):
            return stopped()
        return as_notifyd_error(error, f"writing to {record.topic}")

    def _meters(self, topic: str) -> tuple[Counter, Histogram]:
        found = self._meters_of.get(topic)
        if found is None:
            found = self._meters_of[topic] = (
                self._metrics.produced.labels(topic, "confirmed"),
                self._metrics.produce_seconds.labels(topic),
            )
        return found

    async def _hand_over(self, record: OutRecord) -> Flight:
        """Put a record into the inner producer's buffer; it holds a slot until it has ended for good."""
        inner = await self._current()
        if record.value is None and record.key is None:
            raise PermanentError("a record needs a key or a value", reason="broker_refused")
        await self._slots.acquire()
        try:
            if record.topic not in self._known_topics:
                await self._learn(inner, record.topic)
            future: asyncio.Future[RecordMetadata] = await inner.send(
                record.topic,
                record.value,
                key=record.key,
                partition=record.partition,
                headers=list(record.headers),
            )
        except BaseException as error:
            self._slots.release()
            if is_broken(inner, error):
                raise _BrokenError(inner) from error
            if isinstance(error, kafka.ProducerClosed):
                raise stopped() from error
            if isinstance(error, AssertionError):
                raise PermanentError(
                    f"{record.topic} has no partition {record.partition}", reason="topic_missing"
                ) from error
            if isinstance(error, (kafka.KafkaError, OSError)):
                raise as_notifyd_error(error, f"writing to {record.topic}") from error
            raise
        self._pending[future] = inner
        future.add_done_callback(self._release)
        return Flight(future, inner, time.monotonic())

    def _release(self, future: asyncio.Future[RecordMetadata]) -> None:
        self._pending.pop(future, None)
        self._slots.release()
        if not future.cancelled():
            # Nobody may be listening any more (cancelled, timed out): that is no "never retrieved".
            future.exception()

    async def _learn(self, inner: AIOKafkaProducer, topic: str) -> None:
        """Make sure that a topic exists: one question, however many write their first record.

        Of each inner producer: one that was replaced may ask brokers that are gone, for minutes.
        """
        asked = inner, topic
        finding = self._finding.get(asked)
        if finding is None:
            finding = self._finding[asked] = asyncio.create_task(self._find_topic(inner, topic))
            finding.add_done_callback(partial(self._found, asked))
        await asyncio.shield(finding)  # who is cancelled must not take the answer away from the others

    def _found(self, asked: tuple[AIOKafkaProducer, str], finding: asyncio.Task[None]) -> None:
        del self._finding[asked]
        if not finding.cancelled():
            finding.exception()  # as in `_release`

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

    # The inner producer and its replacement.

    async def _current(self) -> AIOKafkaProducer:
        if self._rebuilding.locked():
            async with self._rebuilding:
                pass
        if self._inner is None or self._stopping.is_set():
            raise stopped()
        return self._inner

    def _give_up(self, inner: AIOKafkaProducer | None, error: kafka.KafkaError) -> None:
        """Fail what `inner` has not confirmed: once it is closed, aiokafka leaves that open for ever."""
        for future, owner in tuple(self._pending.items()):
            if owner is inner and not future.done():
                future.set_exception(error)

    async def _leave_if_lost(self, inner: AIOKafkaProducer) -> None:
        if self._inner is not inner or not await is_lost(inner, self._settings):
            return
        deadline = time.monotonic() + self._settings.producer_timeout_s
        await self._replace(inner, deadline, "no broker that it knew answers any more; others do")
        if self._inner is not inner:
            self._give_up(inner, kafka.KafkaConnectionError("all brokers moved"))

    async def _replace(self, broken: AIOKafkaProducer, deadline: float, why: str) -> None:
        """Put a new inner producer in place of a broken one, unless the deadline comes first."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._rebuilding:
                if self._inner is not broken or self._stopping.is_set():
                    return
                self._logger.warning(
                    "producer_rebuilt",
                    detail="its sequence numbers were refused, its sender ended, or brokers moved",
                )
                # Each one in a row without a success in between waits longer: a broker may refuse them all.
                await asyncio.sleep(backoff_s(self._rebuilds) if self._rebuilds else 0)
                self._rebuilds += 1
                fresh = await build_inner(self._settings, self._client_id)
        except TimeoutError:
            return
        if self._stopping.is_set():
            await close_inner(fresh)
            return
        self._inner = fresh
        task = asyncio.create_task(retire_inner(broken, self._settings.producer_timeout_s))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
