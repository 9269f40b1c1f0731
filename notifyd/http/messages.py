"""`POST /v1/messages`: what `Notifier.send` is in Python, for every other language."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import msgspec
from aiohttp import web

from notifyd.errors import NotifydError, TransientError
from notifyd.http.intake import JSON, NDJSON, Intake, Sender, read_messages
from notifyd.http.room import Place, Room
from notifyd.message.envelope import Limits, Message
from notifyd.message.ids import is_uuid
from notifyd.metrics import Metrics
from notifyd.producer.record import record_of
from notifyd.push.auth import Identity, PermissionDenied, TokenVerifier
from notifyd.push.requests import Refusal, identify
from notifyd.settings import Settings
from notifyd.stream.producer import Producer
from notifyd.stream.records import RecordPlace
from notifyd.tracing import Tracing

PATH: Final = "/v1/messages"
SCOPE: Final = "notify:send"

#: A broker that did not confirm is asked again after this long; readiness has noticed by then.
_RETRY_AFTER_S: Final = 2


class MessagesRoute:
    """Takes messages in, and answers once Kafka has confirmed them all.

    Errors are `Refusal`s: who asks (401, 403), how (408, 413, 415, 429), what (400, 422), and Kafka
    (503). Nothing of a request is written unless all of it is sound.
    """

    def __init__(
        self,
        producer: Producer,
        verifier: TokenVerifier,
        settings: Settings,
        metrics: Metrics,
        *,
        topic: str,
        limits: Limits,
        tracing: Tracing | None = None,
    ) -> None:
        self._producer = producer
        self._verifier = verifier
        self._settings = settings
        self._metrics = metrics
        self._topic = topic
        self._limits = limits
        self._tracing = tracing
        self.room = Room(settings, metrics)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request; never raises for what it holds."""
        began = time.monotonic()
        try:
            with self.room.enter() as place:
                response = await self._take(request, place)
        except Refusal as refusal:
            response = refusal.response()
            if not request.content.at_eof():
                # Who is refused before the end of the body may go on sending for ever.
                response.force_close()
        self._metrics.api_requests.labels(PATH, str(response.status)).inc()
        self._metrics.api_seconds.labels(PATH).observe(time.monotonic() - began)
        return response

    async def _take(self, request: web.Request, place: Place) -> web.Response:
        identity = await self._identify(request)
        kind = _kind_of(request)
        sender = Sender(identity.user, _idempotency_key(request))
        body = await self._read(request, place)
        try:
            intake = read_messages(
                body,
                kind,
                sender,
                limits=self._limits,
                max_messages=self._settings.api_max_batch,
                now_ms=int(time.time() * 1000),
            )
        except Refusal as refusal:
            for error in refusal.errors:
                self._metrics.invalid.labels("api", error["code"]).inc()
            raise
        return await self._send(intake, request.headers.get("traceparent"))

    async def _identify(self, request: web.Request) -> Identity:
        identity = await identify(self._verifier, request)
        try:
            identity.require(SCOPE)
        except PermissionDenied as error:
            challenge = f'Bearer error="insufficient_scope", scope="{SCOPE}"'
            raise Refusal(403, error.reason, error.message, headers={"WWW-Authenticate": challenge}) from None
        return identity

    async def _read(self, request: web.Request, place: Place) -> bytes:
        """Read the body within its bounds of size and time."""
        most, limit_s = self._settings.api_max_body_bytes, self._settings.api_body_timeout_s
        detail = f"a body has {most} bytes at most (NOTIFYD_API_MAX_BODY_BYTES); send several"
        if (request.content_length or 0) > most:
            raise Refusal(413, "too_large", detail)
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for chunk in request.content.iter_any():
                    if len(body) + len(chunk) > most:
                        raise Refusal(413, "too_large", detail)
                    place.hold(len(chunk))
                    body += chunk
        except TimeoutError:
            raise Refusal(408, "body_timeout", f"the body did not arrive within {limit_s:g} s") from None
        except web.RequestPayloadError as error:
            raise Refusal(400, "bad_body", f"the body broke off: {error}") from None
        return bytes(body)

    def _begin(self, spans: ExitStack, message: Message, traceparent: str | None) -> str | None:
        """Begin the span of writing a message, where tracing is on; return the context to write with it."""
        if self._tracing is None:
            return traceparent
        return spans.enter_context(self._tracing.send(self._topic, message.id, traceparent))

    async def _send(self, intake: Intake, traceparent: str | None) -> web.Response:
        with ExitStack() as spans:
            records = [
                record_of(message, self._topic, traceparent=self._begin(spans, message, traceparent))
                for message in intake.messages
            ]
            results = await self._producer.send_each(records, timeout_s=self._settings.api_confirm_timeout_s)
        told = [_told(message, result) for message, result in zip(intake.messages, results, strict=True)]
        errors = [result for result in results if isinstance(result, NotifydError)]
        if errors:
            raise _unconfirmed(intake.messages, errors, told)
        return web.Response(
            body=msgspec.json.encode({"messages": told} if intake.is_batch else told[0]),
            status=202,
            content_type=JSON,
            headers={"Cache-Control": "no-store"},
        )


def _kind_of(request: web.Request) -> str:
    kind = request.content_type
    if kind not in (JSON, *NDJSON):
        detail = f"send an envelope or an array of them as {JSON}, or one a line as {NDJSON[0]}"
        raise Refusal(415, "media_type", detail, headers={"Accept-Post": ", ".join((JSON, NDJSON[0]))})
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "content_encoding", "send the body as it is, not compressed")
    return kind


def _idempotency_key(request: web.Request) -> str | None:
    """Read the header: a UUID, bare or as a string of RFC 9651 (in quotes)."""
    text = request.headers.get("Idempotency-Key")
    if text is None:
        return None
    key = text.strip().removeprefix('"').removesuffix('"')
    if not is_uuid(key):
        raise Refusal(400, "idempotency_key", "Idempotency-Key must be a UUID: it becomes the message's")
    return key.lower()


def _told(message: Message, result: RecordPlace | NotifydError) -> Mapping[str, Any]:
    if isinstance(result, NotifydError):
        return {"id": message.id, "error": {"code": result.reason, "detail": str(result)}}
    return {"id": message.id, "position": f"{result.partition}:{result.offset}"}


def _unconfirmed(
    messages: Sequence[Message], errors: Sequence[NotifydError], told: Sequence[Mapping[str, Any]]
) -> Refusal:
    """Say what the broker has not confirmed, and by which UUIDs it is to be repeated."""
    first = next((error for error in errors if isinstance(error, TransientError)), errors[0])
    if len(messages) == 1:
        what = "the message is"
        again = f"repeat the request with the header `Idempotency-Key: {messages[0].id}`"
    else:
        what = f"{len(errors)} of {len(messages)} messages are"
        again = (
            "repeat as they were those that have no position in `messages`; one that came without a UUID "
            "by itself, with the header `Idempotency-Key` and its id"
        )
    if isinstance(first, TransientError):
        return Refusal(
            503,
            first.reason,
            f"{what} not confirmed and may still arrive; {again}",
            headers={"Retry-After": str(_RETRY_AFTER_S)},
            extra={"messages": told},
        )
    status = 413 if first.reason == "record_too_large" else 500
    return Refusal(status, first.reason, f"{what} not confirmed: {first}", extra={"messages": told})
