"""The incarnation: an id for one life of the topics, so that no offset is taken for another life's.

It is kept in the meta topic as records that are never overwritten (each has a key of its own, so
compaction keeps them all), and several `topics create` at once agree on one id:

- `begin` writes `{"id": new, "after": the id in force or null}` *before* a missing topic is created;
- `finish` writes `{"done": id}` once all topics are there;
- the id in force is the end of the chain: start with null, and go on to the **first** record whose
  `after` is where you stand.

A `begin` that was not finished is taken up by the next run instead of starting another: the topics
it was for did not exist yet.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from notifyd.errors import PermanentError
from notifyd.message.ids import new_id
from notifyd.settings import Settings
from notifyd.stream.clients import as_notifyd_error, kafka_options
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics

_KEY: Final = b"incarnation"


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The id in force (None: none yet), and whether its `topics create` came to its end."""

    id: str | None
    is_done: bool


def chain_end(records: list[dict[str, Any]]) -> Incarnation:
    """Find the id in force among the meta records, given in the order of their offsets."""
    follower: dict[str | None, str] = {}
    done = set()
    for record in records:
        if "id" in record:
            follower.setdefault(record.get("after"), record["id"])
        elif "done" in record:
            done.add(record["done"])
    current: str | None = None
    while current in follower:
        current = follower.pop(current)
    return Incarnation(current, current in done)


async def read(settings: Settings) -> Incarnation:
    """Read the state of the meta topic, which must exist."""
    found = []
    async with aclosing(read_topic(settings, Topics.of(settings).meta)) as records:
        async for record in records:
            if record.key is not None and record.key.startswith(_KEY) and record.value:
                found.append(msgspec.json.decode(record.value, type=dict))
    return chain_end(found)


async def begin(settings: Settings, known: Incarnation, *, is_anew: bool) -> None:
    """Before topics are created: write a new id where there is none, or where positions start anew."""
    if known.id is None or (is_anew and known.is_done):
        fresh = new_id()
        await _write(settings, f"begin:{fresh}", {"id": fresh, "after": known.id})


async def finish(settings: Settings) -> None:
    """After topics were created: say so, once."""
    now = await read(settings)
    if now.id is not None and not now.is_done:
        await _write(settings, f"done:{now.id}", {"done": now.id})


async def _write(settings: Settings, name: str, value: dict[str, Any]) -> None:
    # Not our own Producer: this runs while topics are being made, long before any process has one.
    producer = AIOKafkaProducer(client_id="notifyd-topics", acks="all", **kafka_options(settings))
    try:
        await producer.start()
        await producer.send_and_wait(
            Topics.of(settings).meta,
            msgspec.json.encode(value),
            key=_KEY + b":" + name.encode(),
            partition=0,
        )
    except (kafka.KafkaError, OSError) as error:
        raise as_notifyd_error(error, "writing the incarnation id") from error
    finally:
        await producer.stop()


async def read_incarnation(settings: Settings) -> str:
    """Return the id in force; `PermanentError` (`no_incarnation`) where `topics create` never ended."""
    found = await read(settings)
    if found.id is None or not found.is_done:
        raise PermanentError(
            f"the topic {Topics.of(settings).meta} holds no incarnation id",
            reason="no_incarnation",
            remedy="run `notifyd topics create`",
        )
    return found.id
