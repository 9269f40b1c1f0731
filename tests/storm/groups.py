"""The consumer groups as Kafka sees them: their lag, and how long a dead member's partitions stood still."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from notifyd.roles.streaming import group_of
from notifyd.settings import Settings
from notifyd.stream.topics import Topics, plan_topics

_ASK_S = 0.25
#: A broker that answers, answers by then.
_ANSWER_S = 5.0
ROLES = ("deliver", "persist")


@dataclass
class Standstill:
    """From a fault of one member on: which partitions of its group have not moved since.

    `served_s` is how long the last of them took, `None` while one stands still.
    """

    role: str
    kind: str
    target: str
    at_s: float
    waiting: dict[TopicPartition, int] | None = None
    served_s: float | None = None

    def look(self, committed: Mapping[TopicPartition, int], now_s: float) -> None:
        """Take in what the group has committed by now; the first look says where it stood."""
        if self.waiting is None:
            self.waiting = dict(committed)
        elif self.served_s is None:
            for tp in [tp for tp, place in self.waiting.items() if committed.get(tp, 0) > place]:
                del self.waiting[tp]
            if not self.waiting:
                self.served_s = round(now_s - self.at_s, 2)


class Groups:
    """Looks at the groups; `watch` does so all the time and serves `standstills`."""

    def __init__(self, settings: Settings, now: Callable[[], float], *, roles: Sequence[str] = ROLES) -> None:
        self._settings = settings
        self._roles = roles
        self._now = now
        topics = Topics.of(settings)
        self._messages = topics.messages
        self._topics = {
            "deliver": (topics.messages, *topics.retry.values()),
            "persist": (topics.messages, topics.events),
        }
        self._tps = [
            TopicPartition(plan.name, number)
            for plan in plan_topics(settings)
            for number in range(plan.partitions)
        ]
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self.standstills: list[Standstill] = []

    async def watch(self) -> None:
        """Follow what is committed, also over outages; ends when cancelled."""
        while True:
            await asyncio.sleep(_ASK_S)
            for role in self._roles:
                open_ = [one for one in self.standstills if one.role == role and one.served_s is None]
                if open_:
                    await self._serve(role, open_)

    async def _serve(self, role: str, open_: list[Standstill]) -> None:
        try:
            committed = await self._committed(role)
        except (KafkaError, OSError, TimeoutError):
            await self.close()
            return
        now_s = self._now()
        places = {tp: committed.get(tp, 0) for tp in self._tps if tp.topic == self._messages}
        for one in open_:
            one.look(places, now_s)

    async def _committed(self, role: str) -> dict[TopicPartition, int]:
        async with asyncio.timeout(_ANSWER_S):
            if self._admin is None:
                admin = AIOKafkaAdminClient(bootstrap_servers=self._settings.kafka_bootstrap_servers)
                await admin.start()
                self._admin = admin
            found = await self._admin.list_consumer_group_offsets(group_of(self._settings, role))
        return {tp: place.offset for tp, place in found.items() if place.offset >= 0}

    async def _ends(self) -> dict[TopicPartition, int]:
        async with asyncio.timeout(_ANSWER_S):
            if self._consumer is None:
                consumer = AIOKafkaConsumer(bootstrap_servers=self._settings.kafka_bootstrap_servers)
                await consumer.start()
                self._consumer = consumer
            ends = await self._consumer.end_offsets(self._tps)
        return dict(ends)

    async def look(self) -> tuple[dict[str, dict[str, int]], dict[TopicPartition, int]]:
        """Return the lag by role and topic, and the ends of all partitions; raises what Kafka does."""
        try:
            ends = await self._ends()
            lags: dict[str, dict[str, int]] = {}
            for role in self._roles:
                committed = await self._committed(role)
                by_topic: dict[str, int] = defaultdict(int)
                for tp, end in ends.items():
                    if tp.topic in self._topics[role]:
                        by_topic[tp.topic] += end - committed.get(tp, 0)
                lags[role] = dict(by_topic)
        except (KafkaError, OSError, TimeoutError):
            await self.close()
            raise
        return lags, ends

    async def settle(self, limit_s: float, still_s: float, tell: Callable[[str], None]) -> dict[str, int]:
        """Return what lag is left once nothing moves any more; no lag at all, if all is well.

        Gives up after `limit_s`, or when nothing has moved for `still_s`.
        """
        deadline = time.monotonic() + limit_s
        before: object = None
        moved_at = told_at = time.monotonic()
        while True:
            lags: dict[str, dict[str, int]] = {}
            ends: dict[TopicPartition, int] = {}
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                lags, ends = await self.look()
            left = {
                f"{role} {topic}": lag for role, each in lags.items() for topic, lag in each.items() if lag
            }
            if ends and not left and before == (left, ends):
                return {}
            now = time.monotonic()
            if before != (left, ends):
                moved_at, before = now, (left, ends)
            if now - told_at > 10:
                told_at = now
                tell(f"left to do: {left or 'unknown'}")
            if now > deadline or now - moved_at > still_s:
                return left or {"unknown": 1}
            await asyncio.sleep(1.0)

    async def close(self) -> None:
        """Let go of the clients; the next question opens others."""
        admin, consumer = self._admin, self._consumer
        self._admin = self._consumer = None
        for client in (admin.close() if admin else None, consumer.stop() if consumer else None):
            if client is not None:
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    await asyncio.wait_for(client, _ANSWER_S)
