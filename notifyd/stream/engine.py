"""The Faust app of a role: Faust's apps, agents and services over our own reading and acking.

Seams used, each with a test of its own: `App._new_transport`, `App._on_partitions_assigned`,
`App._create_directories`, `App._producer_flush`, `App._crash`, `BootStrategy.server`, `Transport.Consumer`,
`Consumer._drain_messages`, `Schema.compile`, `App._fetcher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import faust
from faust.app.base import BootStrategy
from faust.serializers.schemas import Schema
from faust.transport.drivers.aiokafka import Transport
from faust.types import TP
from yarl import URL

from notifyd.errors import PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.batch import Batch
from notifyd.stream.consumer import EngineConsumer
from notifyd.stream.seams import faust_log
from notifyd.stream.start import FROM_COMMITTED, StartPlan

#: Consumes the batches of a stream, for as long as the role runs.
Agent = Callable[[AsyncIterator[Batch]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a role asks of its engine.

    `group` the consumer group (`ws` makes its own each time, and `commits` nothing);
    `delays_s` the fixed delay of each retry topic; `fail` is called with the error that no
    repetition can mend, and ends the process.
    """

    role: str
    group: str
    settings: Settings
    metrics: Metrics
    fail: Callable[[Exception], None]
    start: StartPlan = FROM_COMMITTED
    commits: bool = True
    delays_s: Mapping[str, float] = field(default_factory=dict)
    max_poll_interval_s: float = 60.0


class BatchSchema(Schema[Any, Any]):
    """Passes a batch through as the value of its event; there is nothing to decode here."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Return the function that makes an event of a message."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode


class EngineTransport(Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = EngineConsumer


class EngineBoot(BootStrategy):
    """Start the consumer, the agents and the conductor, and nothing else.

    No producer (a process has one of its own), no tables, no web server, no leader.
    """

    def server(self) -> Iterable[Any]:
        """Return the services in the order of their start; they stop in reverse."""
        return self._chain([self.app.consumer], self.agents(), self.kafka_conductor())


class EngineApp(faust.App):
    """One role: one consumer group, its agents, its ledgers."""

    BootStrategy = EngineBoot
    logger = faust_log

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        super().__init__(
            options.group,
            broker="kafka://unused",  # the consumer takes its servers from the settings
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            stream_wait_empty=False,
            # Never full: what waits here is bounded by the windows of the partitions.
            stream_buffer_maxsize=1_000_000,
            processing_guarantee="at_least_once",
        )
        # Nothing of ours waits for tables; Faust's conductor would.
        cast(Any, self.tables)._tables_registered.set()

    def add_agent(self, topics: Sequence[str], agent: Agent, *, name: str) -> None:
        """Run `agent` over the batches of these topics.

        An agent that ends while the role runs ends the role: Faust would start another in its
        place and what the first had taken would stay unacked, in silence.
        """

        async def guarded(stream: AsyncIterator[Batch]) -> None:
            error: BaseException | None = None
            try:
                await agent(stream)
            except (Exception, asyncio.CancelledError) as caught:
                error = caught
            if not self.should_stop:
                self.options.fail(_ended(f"agent {name}", error))
            elif isinstance(error, asyncio.CancelledError):
                raise error

        channel = self.topic(*topics, schema=BatchSchema(), acks=False)
        self.agent(channel, name=name)(cast(Any, guarded))

    @property
    def engine_consumer(self) -> EngineConsumer:
        """The consumer, typed."""
        return cast(EngineConsumer, self.consumer)

    @property
    def is_joined(self) -> bool:
        """Whether the group gave us our partitions (perhaps none) and all of them flow."""
        return self.has_settled and self.engine_consumer.is_joined

    @property
    def has_settled(self) -> bool:
        """Whether the group ever gave us partitions, and all that we have now flow.

        During a rebalance too, which takes theirs from all members at once until the slowest is back.
        """
        if self._consumer is None:
            return False
        consumer = self.engine_consumer
        return consumer.has_joined and all(flow.is_started for flow in consumer.flows.values())

    @property
    def polled_at(self) -> float | None:
        """Monotonic time of the last poll; `None` before the first."""
        return self.engine_consumer.polled_at if self._consumer is not None else None

    @property
    def running(self) -> list[str]:
        """Names of the records and batches at work, as topic:partition@offset."""
        return self.engine_consumer.running if self._consumer is not None else []

    def reopen(self, batch: Batch) -> None:
        """Read the partition of `batch` anew from where its start plan says."""
        self.engine_consumer.reopen(batch.flow)

    # Seams

    def _crash(self, reason: BaseException) -> None:
        """A service of Faust's has crashed, which marks all above it and tells nobody."""
        super()._crash(reason)
        if not self._stopped.is_set():
            self.options.fail(reason if isinstance(reason, Exception) else _ended("a service", reason))

    def _new_transport(self) -> EngineTransport:
        return EngineTransport([URL("kafka://unused")], self)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell the conductor which partitions feed which agents, and let the fetcher run."""
        await self.topics.maybe_wait_for_subscriptions()
        await self.topics.on_partitions_assigned(assigned)
        self.flow_control.resume()
        await self._fetcher.maybe_start()

    async def on_stop(self) -> None:
        """Drain and leave while the agents still run."""
        await self.engine_consumer.leave()
        await self._fetcher.stop()

    def _create_directories(self) -> None:
        """A pod keeps nothing on disk."""

    async def _producer_flush(self, logger: Any) -> None:
        """There is no producer of Faust's here."""


def _ended(what: str, error: BaseException | None) -> PermanentError:
    why = f": {type(error).__name__}: {error}" if error is not None else ""
    return PermanentError(
        f"{what} of the engine ended while it was needed{why}",
        reason="engine_broken",
        remedy="what was not acknowledged is read again after a restart; please report it",
    )
