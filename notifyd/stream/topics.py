"""The topics: their names, how each must be set up, and the commands that make and check them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.metadata import MetadataRequest

from notifyd.errors import PermanentError, TransientError
from notifyd.log import get_logger
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, kafka_options, probe_broker

#: The names of the retry topics and their fixed delays in seconds (DESIGN 4).
RETRY_RUNGS: Final = ("5s", "1m", "10m", "1h")

#: Kafka's own default for `max.message.bytes`; below it no topic of ours goes, so that a message over
#: our limit still reaches `persist`, which sets it aside with its reason.
_BROKER_DEFAULT_BYTES: Final = 1_048_588
#: Room for the headers that we and tracing add, and for the framing of a record batch.
_HEADER_ROOM_BYTES: Final = 64 * 1024
#: How long a new topic may take to be known to every broker.
_SEEN_WAIT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of all topics, prefix included."""

    messages: str
    events: str
    retry: Mapping[str, str]
    resend: str
    dlq: str
    signals: str
    contacts: str
    meta: str

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Name the topics for these settings."""
        prefix = settings.topic_prefix
        return cls(
            messages=f"{prefix}messages",
            events=f"{prefix}events",
            retry=MappingProxyType({rung: f"{prefix}retry.{rung}" for rung in RETRY_RUNGS}),
            resend=f"{prefix}resend",
            dlq=f"{prefix}dlq",
            signals=f"{prefix}signals",
            contacts=f"{prefix}contacts",
            meta=f"{prefix}meta",
        )

    def all(self) -> tuple[str, ...]:
        """Return every topic name."""
        return (
            self.messages,
            self.events,
            *self.retry.values(),
            self.resend,
            self.dlq,
            self.signals,
            self.contacts,
            self.meta,
        )


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How one topic must be set up."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


def message_topic_max_bytes(settings: Settings) -> int:
    """Bytes of a record that the input topic accepts."""
    return max(_BROKER_DEFAULT_BYTES, settings.message_max_bytes + _HEADER_ROOM_BYTES)


def retry_topic_max_bytes(settings: Settings) -> int:
    """Bytes of a record on a retry topic: a message, and a header that may name all its recipients."""
    names = settings.message_max_recipients * (settings.message_max_user_id_chars * 4 + 8)
    return message_topic_max_bytes(settings) + names + _HEADER_ROOM_BYTES


def dlq_max_bytes(settings: Settings) -> int:
    """Bytes of a record on the DLQ: whatever another topic held, and the headers that say why it is dead."""
    return retry_topic_max_bytes(settings) + _HEADER_ROOM_BYTES


def plan_topics(settings: Settings) -> tuple[TopicPlan, ...]:
    """Say how every topic must be set up for these settings."""
    topics = Topics.of(settings)
    replication = settings.topic_replication
    common = {
        "min.insync.replicas": "2" if replication >= 3 else "1",
        "unclean.leader.election.enable": "false",
    }
    kept = {**common, "cleanup.policy": "delete", "retention.ms": str(int(settings.topic_retention_s * 1000))}
    compacted = {**common, "cleanup.policy": "compact"}

    def plan(name: str, configs: Mapping[str, str], max_bytes: int, partitions: int) -> TopicPlan:
        return TopicPlan(name, partitions, replication, {**configs, "max.message.bytes": str(max_bytes)})

    message = message_topic_max_bytes(settings)
    retry = retry_topic_max_bytes(settings)
    many = settings.topic_partitions
    return (
        plan(topics.messages, kept, message, many),
        plan(topics.events, kept, message, many),
        *(plan(name, kept, retry, many) for name in topics.retry.values()),
        plan(topics.resend, kept, retry, many),
        plan(topics.dlq, kept, dlq_max_bytes(settings), many),
        plan(topics.signals, kept, message, many),
        plan(topics.contacts, compacted, message, many),
        plan(topics.meta, compacted, message, 1),
    )


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client; raises `TransientError` or `ConfigError` when no broker lets us in."""
    await probe_broker(settings)
    admin = AIOKafkaAdminClient(client_id="notifyd-topics", **kafka_options(settings))
    try:
        await admin.start()
        yield admin
    except (kafka.KafkaError, OSError) as error:
        raise as_notifyd_error(error, "Kafka") from error
    finally:
        await admin.close()


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing; return their names. What exists is left as it is.

    Writes the incarnation id as well. Safe to run from several places at once.
    """
    from notifyd.stream import incarnation

    plans = plan_topics(settings)
    topics = Topics.of(settings)
    async with admin_client(settings) as admin:
        created: list[str] = []
        meta = next(plan for plan in plans if plan.name == topics.meta)
        if meta.name not in await admin.list_topics():
            created += await _create(admin, [meta])
        # In this order, or an old id could go with a new topic: see `incarnation`.
        known = await incarnation.read(settings)
        present = set(await admin.list_topics())
        is_anew = any(name not in present for name in (topics.messages, topics.events, topics.contacts))
        await incarnation.begin(settings, known, is_anew=is_anew)
        created += await _create(admin, [plan for plan in plans if plan.name not in present])
        await incarnation.finish(settings)
    return created


async def _create(admin: AIOKafkaAdminClient, plans: list[TopicPlan]) -> list[str]:
    if not plans:
        return []
    reply = await admin.create_topics(
        [
            NewTopic(plan.name, plan.partitions, plan.replication, topic_configs=dict(plan.configs))
            for plan in plans
        ]
    )
    created = []
    for name, code, *rest in reply.topic_errors:
        error = kafka.for_code(code)
        if error is kafka.NoError:
            created.append(name)
        elif error is not kafka.TopicAlreadyExistsError:
            raise _cannot_create(name, error(rest[0] if rest and rest[0] else ""))
    await _wait_until_seen(admin, {plan.name for plan in plans})
    return created


async def _wait_until_seen(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    """Return once every broker knows the topics and their leaders: the controller answers before that."""
    until = time.monotonic() + _SEEN_WAIT_S
    for broker in admin._client.cluster.brokers():
        while True:
            reply = (await admin._send_request(MetadataRequest(None), broker.nodeId)).to_object()
            seen = {
                item["topic"]
                for item in reply["topics"]
                if item["error_code"] == 0 and all(part["leader"] >= 0 for part in item["partitions"])
            }
            if names <= seen:
                break
            if time.monotonic() > until:
                raise TransientError(
                    f"topics were created, but broker {broker.nodeId} does not know them yet",
                    reason="broker_unavailable",
                    remedy="run `notifyd topics create` again",
                )
            await asyncio.sleep(0.05)


def _cannot_create(name: str, error: kafka.BrokerResponseError) -> Exception:
    if isinstance(error, kafka.InvalidReplicationFactorError):
        return PermanentError(
            f"topic {name}: {error}",
            reason="bad_replication",
            remedy="NOTIFYD_TOPIC_REPLICATION must not exceed the number of brokers",
        )
    if isinstance(
        error, (kafka.InvalidConfigurationError, kafka.InvalidPartitionsError, kafka.PolicyViolationError)
    ):
        return PermanentError(
            f"topic {name}: {error}", reason="broker_refused", remedy="the broker does not allow this setup"
        )
    return as_notifyd_error(error, f"topic {name}")


async def check_topics(settings: Settings) -> list[str]:
    """Compare the topics with what they must be; return the problems, each with its remedy."""
    problems: list[str] = []
    plans = plan_topics(settings)
    async with admin_client(settings) as admin:
        found = {
            item["topic"]: item["partitions"]
            for item in await admin.describe_topics(None)
            if item["error_code"] == 0
        }
        missing = [plan.name for plan in plans if plan.name not in found]
        present = [plan for plan in plans if plan.name in found]
        problems += [f"{name} is missing: run `notifyd topics create`" for name in missing]
        configs = await _read_configs(admin, [plan.name for plan in present])
        for plan in present:
            problems += _compare(plan, found[plan.name], configs.get(plan.name))
    if Topics.of(settings).meta not in missing:
        from notifyd.stream.incarnation import read_incarnation

        try:
            await read_incarnation(settings)
        except PermanentError as error:
            problems.append(str(error))
    return problems


def _compare(
    plan: TopicPlan, partitions: list[dict[str, Any]], configs: Mapping[str, str] | None
) -> list[str]:
    problems = []
    if len(partitions) < plan.partitions:
        problems.append(
            f"{plan.name} has {len(partitions)} partitions, fewer than {plan.partitions}: "
            f"`kafka-topics.sh --alter --topic {plan.name} --partitions {plan.partitions}` "
            "(keys move to other partitions), or lower NOTIFYD_TOPIC_PARTITIONS"
        )
    copies = min((len(item["replicas"]) for item in partitions), default=0)
    if copies < plan.replication:
        problems.append(
            f"{plan.name} has {copies} copies of a partition, fewer than {plan.replication}: "
            "`kafka-reassign-partitions.sh`, or lower NOTIFYD_TOPIC_REPLICATION"
        )
    for key, wanted in plan.configs.items() if configs else ():
        actual = configs.get(key) if configs else None
        if actual is not None and not _is_enough(key, actual, wanted):
            problems.append(
                f"{plan.name} has {key}={actual}, needs {wanted}: "
                f"`kafka-configs.sh --alter --entity-type topics --entity-name {plan.name} "
                f"--add-config {key}={wanted}`"
            )
    return problems


def _is_enough(key: str, actual: str, wanted: str) -> bool:
    if key in ("max.message.bytes", "min.insync.replicas"):
        return int(actual) >= int(wanted)
    if key == "retention.ms":
        return int(actual) == -1 or int(actual) >= int(wanted)
    if key == "cleanup.policy":
        return set(actual.replace(" ", "").split(",")) == {wanted}
    return actual == wanted


async def _read_configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Read the configuration of topics; empty where the broker has no call for it."""
    try:
        replies = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
    except (
        kafka.IncompatibleBrokerVersion,
        kafka.UnsupportedVersionError,
        kafka.KafkaConnectionError,
    ) as error:
        get_logger().info("topic_configs_not_checked", detail=f"the broker cannot tell them: {error}")
        return {}
    configs: dict[str, dict[str, str]] = {}
    for reply in replies:
        for code, message, _kind, name, entries in reply.resources:
            if code:
                get_logger().info("topic_configs_not_checked", topic=name, detail=message or str(code))
                continue
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def read_incarnation(settings: Settings) -> str:
    """Return the id of this life of the topics; raises `PermanentError` where `topics create` never ran."""
    from notifyd.stream import incarnation

    return await incarnation.read_incarnation(settings)
