"""How far a consumer group has come, seen from outside: the sweep must not judge what only waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiokafka.errors as kafka
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, kafka_options
from notifyd.stream.reading import partitions_of, read_ends

#: Records younger than this may be on their way; those older have been committed where all is well.
YOUNG_S: Final = 15.0


class GroupProgress:
    """Asks the broker for committed offsets of `group`, without being a member of it."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._group = group
        # What is judged is older than the deadline, so its record must not pass for a young one.
        self._young_s = min(YOUNG_S, settings.sweep_check_after_s)
        self._consumer: AIOKafkaConsumer | None = None
        self._ends_by_told: dict[TopicPartition, tuple[int, int]] = {}

    async def start(self) -> None:
        """Connect; raises `TransientError` or `ConfigError`."""
        consumer = AIOKafkaConsumer(
            client_id="notifyd-progress",
            group_id=self._group,
            enable_auto_commit=False,
            **kafka_options(self._settings),
        )
        try:
            await consumer.start()
        except (kafka.KafkaError, OSError) as error:
            await consumer.stop()
            raise as_notifyd_error(error, "connecting to Kafka") from error
        self._consumer = consumer

    async def stop(self) -> None:
        """Let go of the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def committed(self, topic: str) -> dict[int, int]:
        """Return what the group has committed, by partition; partitions without a commit are left out."""
        consumer = await self._connected()
        async with _in_our_words(self._settings, f"reading commits of {self._group}"):
            tps = [TopicPartition(topic, number) for number in await partitions_of(consumer, topic)]
            # `committed` of the consumer asks for one partition at a time.
            found = await consumer._coordinator.fetch_committed_offsets(tps)
        return {tp.partition: place.offset for tp, place in found.items() if place.offset >= 0}

    async def ends_at(self, topic: str, at_ms: int | None = None) -> dict[int, int]:
        """Return per partition the offset that follows all records older than `at_ms` (none: all records)."""
        consumer = await self._connected()
        async with _in_our_words(self._settings, f"reading offsets of {topic}"):
            tps = [TopicPartition(topic, number) for number in await partitions_of(consumer, topic)]
            ends = await self._ends(consumer, tps)
            found = {} if at_ms is None else await consumer.offsets_for_times(dict.fromkeys(tps, at_ms))
        # The embedded broker says offset 0 of time -1 where no record is as young as that.
        young = {tp: one.offset for tp, one in found.items() if one is not None and one.timestamp >= 0}
        return {tp.partition: young.get(tp, ends[tp]) for tp in tps}

    async def _ends(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        told: dict[TopicPartition, int] = await consumer.end_offsets(tps)
        if self._settings.kafka_idempotence:
            return told
        # The mark of the embedded broker, which tells ends too low. It tells another one after each batch,
        # so what was read once stays right until then.
        news = {tp: end for tp, end in told.items() if self._ends_by_told.get(tp, (-1, 0))[0] != end}
        for tp, end in (await read_ends(self._settings, news)).items():
            self._ends_by_told[tp] = (told[tp], end)
        return {tp: self._ends_by_told[tp][1] for tp in tps}

    async def is_done(self, topic: str, *, delay_s: float = 0.0) -> bool:
        """Whether the group has committed all that was due in `topic` some seconds ago; `delay_s` is how
        long a record waits there.
        """
        due_ms = int((time.time() - delay_s - self._young_s) * 1000)
        due, committed = await self.ends_at(topic, due_ms), await self.committed(topic)
        starts = await self._starts(topic, [number for number in due if number not in committed])
        return all(committed.get(number, starts.get(number, 0)) >= offset for number, offset in due.items())

    async def _starts(self, topic: str, partitions: list[int]) -> Mapping[int, int]:
        if not partitions:
            return {}
        consumer = await self._connected()
        async with _in_our_words(self._settings, f"reading offsets of {topic}"):
            found = await consumer.beginning_offsets([TopicPartition(topic, number) for number in partitions])
        return {tp.partition: offset for tp, offset in found.items()}

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            await self.start()
        assert self._consumer is not None
        return self._consumer


@asynccontextmanager
async def _in_our_words(settings: Settings, what: str) -> AsyncIterator[None]:
    """Turn Kafka's errors into ours, and a silence into one."""
    try:
        async with asyncio.timeout(settings.producer_timeout_s):
            yield
    except (kafka.KafkaError, OSError, TimeoutError) as error:
        raise as_notifyd_error(error, what) from error
