"""The producer library: `Notifier.send` returns once the broker has the message."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

import msgspec

from notifyd.errors import InvalidMessage, NotifydError, TransientError
from notifyd.log import get_logger
from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits, Message, decode, find_faults
from notifyd.metrics import Metrics
from notifyd.producer.record import record_of
from notifyd.settings import Settings, load_settings
from notifyd.stream.producer import OutRecord, Producer, RecordPlace
from notifyd.stream.topics import Topics
from notifyd.tracing import current_traceparent


class Parts(TypedDict, total=False):
    """What a message may be built of; `to` at least. See `notifyd.message.build.build_envelope`."""

    to: str | Sequence[str]
    sender: str | None
    created_by: str | None
    title: str | None
    body: str | None
    type: str | None
    url: str | None
    data: Any
    channels: Sequence[str] | None
    contacts: Mapping[str, Any] | None
    ttl: float | str | None
    expires_at: dt.datetime | str | None
    not_before: dt.datetime | str | None
    collapse_key: str | None
    critical: bool | None
    fallback: Mapping[str, Any] | None
    content: Mapping[str, Any] | None
    id: str | None
    created_at: dt.datetime | dt.date | str | None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The broker has the message, on all in-sync replicas: from here on it reaches a final state."""

    id: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    status: Literal["confirmed"] = "confirmed"

    @property
    def position(self) -> str:
        """`partition:offset` in the topic of messages."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as `on_failed` gets it: enough to send it again with the same id.

    `id` is "" where the envelope is too broken to tell.
    """

    id: str
    envelope: bytes
    key: bytes | None = None


OnFailed = Callable[[Outgoing, NotifydError], Awaitable[None] | None]


class InvalidEnvelope(InvalidMessage):
    """An envelope that was not sent, with everything that is wrong with it in `faults`."""

    def __init__(self, faults: Sequence[InvalidMessage]) -> None:
        first = faults[0]
        more = "; ".join(fault.message for fault in faults[1:])
        super().__init__(
            first.field,
            f"{first.rule}; {more}" if more else first.rule,
            reason=first.reason,
            remedy=first.remedy,
        )
        self.faults = tuple(faults)


class Notifier:
    """Sends notifications. One per process is enough; it may be used by many tasks at once.

        async with Notifier(bootstrap_servers="kafka:9092", sender="orders") as notifier:
            await notifier.send(to=["alice"], title="On its way")

    `settings` come from `NOTIFYD_*` variables unless given; `fields` override them by name (e.g.
    `producer_timeout_s=5`). `sender` becomes `from` of messages that name none. `on_failed(message,
    error)`, a function or a coroutine function, is called once for each message that was not
    confirmed, before `send` raises.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bootstrap_servers: str | None = None,
        sender: str | None = None,
        on_failed: OnFailed | None = None,
        metrics: Metrics | None = None,
        client_id: str = "notifyd-notifier",
        **fields: Any,
    ) -> None:
        if bootstrap_servers is not None:
            fields["kafka_bootstrap_servers"] = bootstrap_servers
        if settings is None:
            settings = load_settings(**fields)
        elif fields:
            settings = Settings(**{**dict(settings), **fields})
        self._settings = settings
        self._limits = Limits.of(settings)
        self._topic = Topics.of(settings).messages
        self._sender = sender
        self._on_failed = on_failed
        self._logger = get_logger()
        self._producer = Producer(settings, metrics or Metrics(), client_id=client_id)
        self._is_open = False

    async def start(self) -> None:
        """Connect; `TransientError` if no broker answers within the producer timeout."""
        limit_s = self._settings.producer_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._producer.start()
        except TimeoutError as error:
            raise TransientError(
                f"no Kafka broker answers at {self._settings.kafka_bootstrap_servers} ({limit_s:g} s tried)",
                reason="broker_unavailable",
                remedy="start it, or correct NOTIFYD_KAFKA_BOOTSTRAP_SERVERS",
            ) from error
        self._is_open = True

    async def close(self, flush_s: float | None = None) -> None:
        """Wait for what is in flight, `flush_s` seconds at most (default: the producer timeout), and let go.

        A `send` still waiting then raises `TransientError` (`producer_stopped`).
        """
        self._is_open = False
        await self._producer.stop(self._settings.producer_timeout_s if flush_s is None else flush_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self,
        *,
        envelope: bytes | str | Mapping[str, Any] | None = None,
        key: str | bytes | None = None,
        traceparent: str | None = None,
        timeout_s: float | None = None,
        **parts: Unpack[Parts],
    ) -> Confirmation:
        """Send one message; return once the broker confirmed it.

        Either a whole `envelope` (JSON as bytes or text, or a mapping), or its parts: `to`, `title`,
        `body`, `type`, ... as `Parts` lists them. `key` decides the
        partition where order matters (default: the message's id). `traceparent` is passed on (default:
        that of OpenTelemetry's current span, where the program uses it).

        Raises `InvalidEnvelope` (an `InvalidMessage`) with all faults, `TransientError` (not
        confirmed: it may still arrive; send it again with the same id), `PermanentError`.
        """
        outgoing = Outgoing("", b"")
        try:
            outgoing, record = self._prepare(envelope, key, traceparent, parts)
            self._must_be_open()
            place = await self._producer.send(record, timeout_s=timeout_s)
        except NotifydError as error:
            await self._failed(outgoing if outgoing.envelope else self._unsent(envelope), error)
            raise
        return _confirmation(outgoing.id, place)

    async def send_many(
        self, messages: Iterable[Mapping[str, Any]], *, timeout_s: float | None = None
    ) -> list[Confirmation | NotifydError]:
        """Send many at once; each item holds the arguments of one `send`. Raises nothing of ours.

        Returns, in order, the confirmation or the error of each; `on_failed` is called as by `send`.
        """
        results: dict[int, Confirmation | NotifydError] = {}
        ready: dict[int, tuple[Outgoing, OutRecord]] = {}
        failed: list[tuple[Outgoing, NotifydError]] = []
        count = 0
        for number, item in enumerate(messages):
            count = number + 1
            parts = dict(item)
            envelope, key = parts.pop("envelope", None), parts.pop("key", None)
            traceparent = parts.pop("traceparent", None)
            try:
                self._must_be_open()
                ready[number] = self._prepare(envelope, key, traceparent, parts)
            except NotifydError as error:
                results[number] = error
                failed.append((self._unsent(envelope), error))
        outcomes = await self._producer.send_each(
            [record for _, record in ready.values()], timeout_s=timeout_s
        )
        for (number, (outgoing, _)), outcome in zip(ready.items(), outcomes, strict=True):
            if isinstance(outcome, NotifydError):
                results[number] = outcome
                failed.append((outgoing, outcome))
            else:
                results[number] = _confirmation(outgoing.id, outcome)
        for message, reason in failed:
            await self._failed(message, reason)
        return [results[number] for number in range(count)]

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise TransientError(
                "the notifier is not open", reason="producer_stopped", remedy="use it inside `async with`"
            )

    def _prepare(
        self,
        envelope: bytes | str | Mapping[str, Any] | None,
        key: str | bytes | None,
        traceparent: str | None,
        parts: Mapping[str, Any],
    ) -> tuple[Outgoing, OutRecord]:
        if (envelope is None) == (not parts):
            raise TypeError("pass either envelope=... or its parts (to=..., title=..., ...)")
        value = self._build(parts) if envelope is None else _as_bytes(envelope)
        message = self._check(value)
        key_bytes = key.encode() if isinstance(key, str) else key
        if key_bytes is None:
            key_bytes = message.id.encode()
        record = record_of(
            message, self._topic, key=key_bytes, traceparent=traceparent or current_traceparent()
        )
        return Outgoing(message.id, value, key_bytes), record

    def _build(self, parts: Mapping[str, Any]) -> bytes:
        filled = dict(parts)
        if filled.get("sender") is None:
            filled["sender"] = self._sender or self._settings.pod_name
        if filled.get("created_by") is None:
            filled["created_by"] = filled["sender"]
        return build_envelope(**filled)

    def _check(self, value: bytes) -> Message:
        """Decode as every role will, so that nothing is confirmed that the roles would set aside."""
        now_ms = int(time.time() * 1000)
        try:
            message = decode(value, timestamp_ms=now_ms, limits=self._limits)
            _ = message.content
        except InvalidMessage as error:
            faults = find_faults(value, timestamp_ms=now_ms, limits=self._limits)
            raise InvalidEnvelope(faults or [error]) from error
        return message

    def _unsent(self, envelope: bytes | str | Mapping[str, Any] | None) -> Outgoing:
        value = b"" if envelope is None else _as_bytes(envelope)
        try:
            found = msgspec.json.decode(value)["UUID"]
        except (msgspec.DecodeError, KeyError, TypeError):
            found = ""
        return Outgoing(found if isinstance(found, str) else "", value)

    async def _failed(self, message: Outgoing, error: NotifydError) -> None:
        if self._on_failed is None:
            return
        try:
            answer = self._on_failed(message, error)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # the caller's code: its failure must not hide what it was told about
            self._logger.exception("on_failed_raised", message_id=message.id, reason=error.reason)


def _confirmation(message_id: str, place: RecordPlace) -> Confirmation:
    return Confirmation(message_id, place.topic, place.partition, place.offset, place.timestamp_ms)


def _as_bytes(envelope: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(envelope, bytes):
        return envelope
    if isinstance(envelope, str):
        return envelope.encode()
    return msgspec.json.encode(envelope)
