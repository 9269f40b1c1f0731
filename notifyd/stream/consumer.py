"""The consumer of a role: one member of a consumer group, its partitions, its commits.

It takes the place of Faust's own consumer behind `faust.App`. aiokafka runs in the event loop
of the role rather than in a thread of its own: a loop that is stuck stops its heartbeats and
so gives its partitions to others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import aiokafka
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.structs import TopicPartition
from faust.types import TP, ConsumerMessage
from mode import Service

from notifyd.errors import NotifydError, PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.batch import Batch
from notifyd.stream.clients import as_notifyd_error, backoff_s, kafka_options
from notifyd.stream.commits import Commits
from notifyd.stream.departure import stop_client
from notifyd.stream.flow import PartitionFlow
from notifyd.stream.gauges import PartitionGauges
from notifyd.stream.poller import Poller
from notifyd.stream.predecessor import take_place
from notifyd.stream.seams import FaustSeams
from notifyd.stream.start import plan_starts

if TYPE_CHECKING:
    from notifyd.stream.engine import EngineOptions

_log = get_logger()

#: New partitions are found within this time rather than aiokafka's five minutes.
_METADATA_AGE_MS = 30_000
#: A commit at the interval that takes longer is given up; the next one says the same or more.
_COMMIT_LIMIT_S = 10.0
#: Of the session. Members learn of a rebalance by a heartbeat, and all stand still until the last
#: one has: with a third of 10 s that was up to 3.3 s of each, and 15.2 s from a kill until its
#: partitions were served by others.
_HEARTBEAT_SHARE = 0.1
#: How long cancelled work may take to end.
_CANCEL_LIMIT_S = 1.0


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes aiokafka's calls on; both run inside its coordination task."""

    def __init__(self, consumer: EngineConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._ending_the_role(self._consumer.on_partitions_revoked(_tps(revoked)))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._ending_the_role(self._consumer.on_partitions_assigned(_tps(assigned)))

    async def _ending_the_role(self, call: Coroutine[Any, Any, None]) -> None:
        """aiokafka would log an error and go on, as the owner of partitions that nobody reads."""
        try:
            await call
        except Exception as error:
            self._consumer.fail(error)


def _tps(partitions: Iterable[Any]) -> set[TP]:
    return {TP(tp.topic, tp.partition) for tp in partitions}


def _aio(tp: TP) -> TopicPartition:
    return TopicPartition(tp.topic, tp.partition)


class EngineConsumer(FaustSeams):
    """One member of a consumer group, whose events are batches.

    Made by Faust for an `EngineApp`, whose `options` it follows. `flows` holds the partitions
    that are ours now; `is_joined` tells whether the group has given us ours, perhaps none, and `has_joined`
    whether it ever did.
    """

    consumer_stopped_errors = (ConsumerStoppedError,)

    def __init__(self, transport: Any, callback: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, callback, *args, **kwargs)
        self._options: EngineOptions = transport.app.options
        self._settings = self._options.settings
        self.flows: dict[TP, PartitionFlow] = {}
        self.is_joined = self.has_joined = False
        self._leaving: set[PartitionFlow] = set()
        self._goings: set[asyncio.Task[None]] = set()
        self._anew: set[asyncio.Task[None]] = set()
        self._known: set[TP] = set()
        self._last_position: dict[TP, int] = {}
        self._client: aiokafka.AIOKafkaConsumer | None = None
        self._poller: Poller | None = None
        self._starting: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._gauges = PartitionGauges(self._options.metrics, self._options.role, self.highwater)

    # Life

    async def on_start(self) -> None:
        """Connect; the broker may come late."""
        attempt = 0
        while True:
            client = self._new_client()
            try:
                await client.start()
                break
            except asyncio.CancelledError:
                await client.stop()
                raise
            except KafkaError as error:
                await client.stop()
                found = as_notifyd_error(error, "connecting the consumer")
                if not isinstance(found, TransientError):
                    raise found from error
                wait_s = backoff_s(attempt)
                _log.warning("waiting_for_broker", error=found.message, retry_in_s=round(wait_s, 2))
                await asyncio.sleep(wait_s)
                attempt += 1
        self._client = client
        if self._options.commits and "pod_name" in self._settings.model_fields_set:
            # A name that was given is no other's; the host's, which is the default, may be.
            await take_place(self._settings, self._options.group, self._client_id)
        self._commits = Commits(
            client if self._options.commits else None,
            self._options.metrics,
            self._options.role,
            self.fail,
        )
        self._poller = Poller(
            client, self.flows, max_records=self._settings.kafka_max_poll_records, on_lost=self.on_lost
        )

    @property
    def _client_id(self) -> str:
        return f"notifyd-{self._options.role}-{self._settings.pod_name}"

    def _new_client(self) -> aiokafka.AIOKafkaConsumer:
        settings = self._settings
        return aiokafka.AIOKafkaConsumer(
            **kafka_options(settings),
            client_id=self._client_id,
            group_id=self._options.group,
            enable_auto_commit=False,
            # Never a silent reset: `plan_starts` decides where to read.
            auto_offset_reset="none",
            isolation_level="read_committed",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            max_poll_records=settings.kafka_max_poll_records,
            max_poll_interval_ms=int(self._options.max_poll_interval_s * 1000),
            fetch_max_wait_ms=int(settings.kafka_fetch_wait_s * 1000),
            session_timeout_ms=int(settings.kafka_session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.kafka_session_timeout_s * 1000 * _HEARTBEAT_SHARE),
            rebalance_timeout_ms=int(settings.kafka_rebalance_timeout_s * 1000),
            metadata_max_age_ms=_METADATA_AGE_MS,
        )

    @property
    def client(self) -> aiokafka.AIOKafkaConsumer:
        """The aiokafka consumer, once started."""
        if self._client is None:
            raise IllegalStateError("the consumer has not started")
        return self._client

    @property
    def polled_at(self) -> float | None:
        """Monotonic time of the last poll; `None` before the first."""
        return self._poller.polled_at if self._poller is not None else None

    @property
    def running(self) -> list[str]:
        """Names of the tasks at work, those of partitions being let go included."""
        return sorted(name for flow in {*self.flows.values(), *self._leaving} for name in flow.running)

    async def leave(self) -> None:
        """Take on nothing new, let what is in flight end, commit."""
        self._is_stopping = True
        self.is_joined = False
        await self.let_go(set(self.flows))

    async def on_stop(self) -> None:
        """Leave the group."""
        await self.leave()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._client is not None:
            await stop_client(self._client, limit_s=self._settings.stop_step_s / 2)

    def fail(self, error: BaseException) -> None:
        """End the role, unless it is ending already; nothing in here may die in silence."""
        if not self._is_stopping:
            self._options.fail(error if isinstance(error, Exception) else _broken(error))

    # Reading

    async def _drain_messages(self, fetcher: Any) -> None:
        """Read until stopped; run by Faust's `Fetcher`. One event is one batch."""
        should_stop = cast(Service, fetcher)._stopped.is_set
        try:
            await self._read(should_stop)
        except asyncio.CancelledError as error:
            if not should_stop():
                self.fail(error)
            raise
        except Exception as error:
            self.fail(error)

    async def _read(self, should_stop: Callable[[], bool]) -> None:
        assert self._poller is not None
        failures = 0
        while not (should_stop() or self._stopped.is_set()):
            try:
                if not await self._read_round(self._poller):
                    await self._poller.wait()
                failures = 0
            except ConsumerStoppedError:
                if not self._is_stopping:
                    raise
                return
            except KafkaError as error:
                if not error.retriable:
                    raise _cannot_read(error) from error
                failures += 1
                _log.warning("poll_failed", error=repr(error), failures=failures)
                await asyncio.sleep(backoff_s(failures))

    async def _read_round(self, poller: Poller) -> bool:
        """Serve every partition once; true if any gave records."""
        found = False
        for flow in poller.poll():
            batch = await poller.take(flow)
            if batch is not None:
                found = True
                self._options.metrics.records.labels(self._options.role, batch.tp.topic).inc(
                    len(batch.records)
                )
                await self._hand_over(batch)
        return found

    async def _hand_over(self, batch: Batch) -> None:
        """Give a batch to the agents of its topic. Windows bound what waits in their queues."""
        first = batch.records[0]
        await self.callback(
            ConsumerMessage(
                batch.tp.topic,
                batch.tp.partition,
                first.offset,
                first.timestamp / 1000.0,
                first.timestamp_type,
                [],
                None,
                batch,  # type: ignore[arg-type]
                None,
                tp=batch.tp,
                # Faust drops events of another generation; batches know their own epoch.
                generation_id=self.app.consumer_generation_id,
            )
        )

    # Rebalances

    async def on_partitions_revoked(self, revoked: set[TP], *_: Any) -> None:
        """Everything is taken back before each rebalance: stop, let work end, commit, let go."""
        self.is_joined = False
        is_lost = self.client._coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID
        if is_lost and self.flows:
            _log.warning("partitions_lost", role=self._options.role, partitions=_summary(self.flows))
        await self.let_go(revoked | set(self.flows), is_lost=is_lost)

    async def on_partitions_assigned(self, assigned: set[TP], *_: Any) -> None:
        """Open a flow for each partition; where each starts is found out beside the rebalance."""
        if self._is_stopping:
            return
        # Until their places are set, nothing is fetched.
        self.client.pause(*map(_aio, assigned))
        for tp in assigned:
            self.flows[tp] = self._new_flow(tp)
        await self._on_partitions_assigned(assigned)
        self._options.metrics.rebalances.labels(self._options.role).inc()
        self._options.metrics.assigned.labels(self._options.role).set(len(self.flows))
        _log.info("partitions_assigned", role=self._options.role, partitions=_summary(assigned))
        self._start_flows()
        self.is_joined = self.has_joined = True

    def _new_flow(self, tp: TP) -> PartitionFlow:
        assert self._poller is not None
        return PartitionFlow(
            tp,
            window=self._settings.kafka_window_records,
            window_bytes=self._settings.kafka_window_bytes,
            delay_s=self._options.delays_s.get(tp.topic, 0.0),
            on_change=self._poller.wake,
            on_failure=self.fail,
        )

    def reopen(self, flow: PartitionFlow) -> None:
        """Begin a partition anew at the place that its start plan gives."""
        if self.flows.get(flow.tp) is not flow:
            return
        flow.close()
        self.flows[flow.tp] = self._new_flow(flow.tp)
        self.client.pause(_aio(flow.tp))
        self._start_flows()

    def on_lost(self, flow: PartitionFlow) -> None:
        """The broker has no record at a flow's place: what was read before it ends first.

        Those records may be in no other place than here by now.
        """
        flow.drain()
        anew = asyncio.create_task(self._begin_anew(flow.tp))
        self._anew.add(anew)
        anew.add_done_callback(self._anew.discard)

    async def _begin_anew(self, tp: TP) -> None:
        await self.let_go({tp})
        subscription = self.client._subscription
        is_ours = subscription.is_assigned(_aio(tp)) and not subscription.reassignment_in_progress
        if is_ours and tp not in self.flows and not self._is_stopping:
            self.flows[tp] = self._new_flow(tp)
            self.client.pause(_aio(tp))
            self._start_flows()

    def _start_flows(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        self._starting = asyncio.create_task(self._find_starts())

    async def _find_starts(self) -> None:
        """Find where to read each new partition, as long as it takes; then let it flow."""
        waiting = {tp: flow for tp, flow in self.flows.items() if not flow.is_started}
        attempt = 0
        while True:
            try:
                starts = await plan_starts(
                    self.client,
                    list(waiting),
                    self._options.start,
                    known=self._known,
                    last_position=self._last_position,
                    settings=self._settings,
                )
                break
            except PermanentError as error:
                self.fail(error)
                return
            except (KafkaError, NotifydError, OSError) as error:
                _log.warning("waiting_for_places", role=self._options.role, error=str(error) or repr(error))
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1
            except Exception as error:  # a task that ends unseen would leave its partitions unread
                self.fail(error)
                return
        for tp, flow in waiting.items():
            # A flow of this moment is assigned; where aiokafka thinks otherwise, its next rebalance
            # brings another flow.
            if self.flows.get(tp) is flow and self.client._subscription.is_assigned(_aio(tp)):
                self.client.seek(_aio(tp), starts[tp])
                self.client.resume(_aio(tp))
                flow.start_at(starts[tp])
        self._known.update(waiting)

    async def let_go(self, tps: Iterable[TP], *, is_lost: bool = False) -> None:
        """Begin nothing new in `tps`, let what runs end within the drain time, commit, close.

        Where the group has thrown us out (`is_lost`) others own them already: what runs is
        cancelled at once, so that it writes no retry beside theirs.
        """
        flows = [self.flows.pop(tp) for tp in list(tps) if tp in self.flows]
        self._options.metrics.assigned.labels(self._options.role).set(len(self.flows))
        if flows:
            for flow in flows:
                flow.drain()
            self._leaving.update(flows)
            # A task of its own: it must end also where its caller is cancelled.
            going = asyncio.create_task(self._let_go(flows, is_lost=is_lost))
            self._goings.add(going)
            going.add_done_callback(self._goings.discard)
        while self._goings:  # those that another call began, too
            await asyncio.wait(set(self._goings))

    async def _let_go(self, flows: list[PartitionFlow], *, is_lost: bool) -> None:
        started = time.monotonic()
        try:
            if is_lost:
                await self._commits.end_routine()
            else:
                running = await _idle(flows, self._settings.drain_s)
                if running:
                    _log.warning(
                        "drain_cut", role=self._options.role, running=running[:20], count=len(running)
                    )
                await self._commits.last(flows, limit_s=self._last_commit_limit_s)
        finally:
            for flow in flows:
                # Not where reading stopped: what was queued and not worked on comes again.
                if flow.committable is not None:
                    self._last_position[flow.tp] = flow.committable
                flow.close()
                self._gauges.forget(flow.tp)
        # What was cancelled ends before we may be given these partitions again.
        running = await _idle(flows, _CANCEL_LIMIT_S)
        if running:
            _log.error("cancel_ignored", role=self._options.role, running=running[:20], count=len(running))
        # What did not hear its cancellation stays in the watchdog's sight.
        self._leaving.difference_update(flow for flow in flows if not flow.running)
        self._options.metrics.drain.labels(self._options.role).observe(time.monotonic() - started)

    @property
    def _last_commit_limit_s(self) -> float:
        settings: Settings = self._settings
        if self._is_stopping:
            return settings.stop_step_s
        return min(settings.drain_s, (settings.kafka_rebalance_timeout_s - settings.drain_s) / 2)

    # Commits

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what every ledger allows."""
        await self._commits.routine(list(self.flows.values()), limit_s=_COMMIT_LIMIT_S)
        return True

    @Service.task
    async def _commit_handler(self) -> None:
        """Commit at an interval, and show what is in flight and how far behind it is."""
        while not self.should_stop:
            await self.sleep(self._settings.kafka_commit_interval_s)
            if not self._is_stopping and self._client is not None:
                await self.commit()
                self._gauges.show(self.flows.values())

    # What Faust asks its consumer for

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group for these topics."""
        self.client.subscribe(topics=sorted(topics), listener=_Listener(self))

    def assignment(self) -> set[TP]:
        """Return the partitions that are ours."""
        return set(self.flows)

    async def position(self, tp: TP) -> int | None:
        """Return the offset to be read next."""
        flow = self.flows.get(tp)
        return flow.position if flow is not None else None

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset that the broker has of each partition."""
        return cast(Mapping[TP, int], await self.client.beginning_offsets(list(partitions)))

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last record of each partition."""
        return cast(Mapping[TP, int], await self.client.end_offsets(list(partitions)))

    def highwater(self, tp: TP) -> int:
        """Return the offset after the last record, as of the last fetch; 0 while unknown."""
        if not self.client._subscription.is_assigned(_aio(tp)):
            return 0
        return self.client.highwater(_aio(tp)) or 0

    def topic_partitions(self, topic: str) -> int | None:
        """Return how many partitions a topic has; `None` while unknown."""
        partitions = self.client.partitions_for_topic(topic)
        return len(partitions) if partitions else None


async def _idle(flows: Iterable[PartitionFlow], limit_s: float) -> list[str]:
    """Wait until nothing is at work in `flows`; return what still is when the limit has passed."""
    waits = [asyncio.ensure_future(flow.wait_idle()) for flow in flows]
    if waits:
        # No `gather`: cancelled later on, it complains of what nobody retrieved.
        await asyncio.wait(waits, timeout=limit_s)
    for wait in waits:
        wait.cancel()
    return [name for flow in flows for name in flow.running]


def _cannot_read(error: KafkaError) -> PermanentError:
    return PermanentError(
        f"Kafka refuses to be read: {error!r}",
        reason="broker_refused",
        remedy="check the topics and what this client is allowed to",
    )


def _broken(error: BaseException) -> PermanentError:
    return PermanentError(
        f"reading from Kafka ended while it was needed: {error!r}",
        reason="engine_broken",
        remedy="what was not acknowledged is read again after a restart; please report it",
    )


def _summary(tps: Iterable[TP]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for tp in sorted(tps):
        found.setdefault(tp.topic, []).append(tp.partition)
    return found
