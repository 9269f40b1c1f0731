"""Dead letters: a record that cannot work, put on the DLQ as it was, with headers that say why."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from notifyd.delivery.audit import Place
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.reading import partitions_of, read_to_end, read_topic, reader
from notifyd.stream.topics import Topics, dlq_max_bytes

REASON: Final = "notifyd-reason"
ERROR: Final = "notifyd-error"
ATTEMPTS: Final = "notifyd-attempts"
FIRST_AT: Final = "notifyd-first-at"
POSITION: Final = "notifyd-position"
CHANNEL: Final = "notifyd-channel"
USER: Final = "notifyd-user"
#: Only with a record that did not fit: the SHA-256 (hex) and the size of its whole value.
SHA256: Final = "notifyd-sha256"
SIZE: Final = "notifyd-bytes"

_OURS: Final = frozenset({REASON, ERROR, ATTEMPTS, FIRST_AT, POSITION, CHANNEL, USER, SHA256, SIZE})
_MAX_ERROR_CHARS: Final = 1000
#: What a batch and our headers need beside key, value and the record's own headers.
_FRAME_BYTES: Final = 8 * 1024
#: Letters so near are read on to; others are sought.
_NEAR: Final = 1000
#: What is kept of a value that does not fit.
_PREFIX_BYTES: Final = 64 * 1024


class DeadLetters:
    """Writes dead letters for a role. `incarnation` goes into the position, so that it means one record."""

    def __init__(
        self, producer: Producer, topics: Topics, settings: Settings, metrics: Metrics, incarnation: str
    ) -> None:
        self._producer = producer
        self._topic = topics.dlq
        self._max_bytes = dlq_max_bytes(settings)
        self._metrics = metrics
        self._incarnation = incarnation

    async def write(
        self,
        record: Any,
        *,
        reason: str,
        error: str,
        attempts: int = 0,
        first_at_ms: int | None = None,
        channel: str | None = None,
        user: str | None = None,
    ) -> None:
        """Put a consumer record on the DLQ; returns once the broker has it, however long that takes."""
        await self._producer.send_held(
            [
                self.record(
                    record,
                    reason=reason,
                    error=error,
                    attempts=attempts,
                    first_at_ms=first_at_ms,
                    channel=channel,
                    user=user,
                )
            ]
        )
        self._metrics.dead.labels(reason).inc()

    def record(
        self,
        record: Any,
        *,
        reason: str,
        error: str,
        attempts: int = 0,
        first_at_ms: int | None = None,
        channel: str | None = None,
        user: str | None = None,
    ) -> OutRecord:
        """Build the dead letter without sending it.

        Key, value and foreign headers stay as they are (a header `notifyd-...` of an earlier death
        or retry with one of our names gives way). One too large for the DLQ keeps the start of its
        value, its size, its SHA-256 and its position.
        """
        ours = {
            REASON: reason,
            ERROR: error[:_MAX_ERROR_CHARS],
            ATTEMPTS: str(attempts),
            FIRST_AT: str(record.timestamp if first_at_ms is None else first_at_ms),
            POSITION: f"{self._incarnation}/{record.topic}/{record.partition}/{record.offset}",
        }
        if channel is not None:
            ours[CHANNEL] = channel
        if user is not None:
            ours[USER] = user
        value, key = record.value, record.key
        foreign = [(name, data) for name, data in record.headers if name not in _OURS]
        size = sum(len(part) for part in (value, key) if part is not None)
        size += sum(len(name) * 3 + len(data or b"") + 8 for name, data in foreign)
        if size + _FRAME_BYTES > self._max_bytes:
            ours[SIZE] = str(len(value or b""))
            ours[SHA256] = hashlib.sha256(value or b"").hexdigest()
            value = (value or b"")[:_PREFIX_BYTES]
            # It may be the key or the headers that are too large: only what is small can stay.
            key = key if key is None or len(key) <= _PREFIX_BYTES else key[:_PREFIX_BYTES]
            foreign = []
        headers = [*foreign, *((name, text.encode("utf-8", "replace")) for name, text in ours.items())]
        # A tombstone without a key cannot be written; an empty value is what can.
        if value is None and key is None:
            value = b""
        return OutRecord(self._topic, value, key=key, headers=tuple(headers))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of the DLQ. `partition` and `offset` are its place there; `position` where it came from."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    reason: str
    error: str
    attempts: int
    first_at_ms: int | None
    position: str
    channel: str | None
    user: str | None
    headers: tuple[tuple[str, bytes], ...]


async def read_dead_letters(
    settings: Settings,
    *,
    start: Mapping[int, int] = MappingProxyType({}),
    since_ms: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the DLQ to the end it has at this call, as `read_to_end`: in order within a partition."""
    records = read_topic(settings, Topics.of(settings).dlq, start=start, since_ms=since_ms, is_over=is_over)
    async with aclosing(records):
        async for record in records:
            yield parse_dead_letter(record)


async def find_dead_letters(settings: Settings, places: Collection[Place]) -> list[DeadLetter]:
    """Return those that lie at these places, each (partition, offset)."""
    found: list[DeadLetter] = []
    topic = Topics.of(settings).dlq
    async with reader(settings) as consumer:
        for partition in await partitions_of(consumer, topic):
            left = deque(sorted(offset for number, offset in set(places) if number == partition))
            while left:
                records = read_to_end(consumer, topic, [partition], start={partition: left[0]})
                async with aclosing(records):
                    async for record in records:
                        while left and left[0] < record.offset:  # a hole: no record has this offset
                            left.popleft()
                        if left and record.offset == left[0]:
                            left.popleft()
                            found.append(parse_dead_letter(record))
                        if not left or left[0] - record.offset > _NEAR:
                            break
                    else:
                        left.clear()  # the end came first
    return found


def parse_dead_letter(record: Any) -> DeadLetter:
    """Read a DLQ record; whatever its headers hold, it becomes a value."""
    found = {name: (data or b"").decode("utf-8", "replace") for name, data in record.headers if name in _OURS}
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        reason=found.get(REASON, ""),
        error=found.get(ERROR, ""),
        attempts=_number(found.get(ATTEMPTS)) or 0,
        first_at_ms=_number(found.get(FIRST_AT)),
        position=found.get(POSITION, ""),
        channel=found.get(CHANNEL),
        user=found.get(USER),
        headers=tuple((name, data or b"") for name, data in record.headers),
    )


def foreign_headers(letter: DeadLetter) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that the record had before it died."""
    return tuple((name, data) for name, data in letter.headers if name not in _OURS)


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None
