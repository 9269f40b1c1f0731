"""Webhooks: one signed HTTPS POST to each URL of a user. What receivers see: docs/reference/webhooks.md."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

import msgspec
from yarl import URL

from notifyd.channels.addresses import Lookup
from notifyd.channels.http_calls import HttpCalls
from notifyd.channels.http_client import Reply, Request
from notifyd.channels.port import Delivery
from notifyd.channels.webhook_answers import outcome_of_status
from notifyd.channels.webhook_request import make_request
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Outcome, Skip
from notifyd.message.envelope import Message, public_envelope
from notifyd.metrics import Metrics
from notifyd.settings import Settings


class WebhookChannel:
    """The channel `webhook`.

    A send ends within `webhook_timeout_s` and the wait for a place (1 s for each host at most);
    the URLs of a user are called at the same time. `lookup`, `ssl_context` and `clock` (Unix
    time in seconds) are ports for tests.
    """

    name = "webhook"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._http = HttpCalls(
            self.name,
            timeout_s=settings.webhook_timeout_s,
            allow_private=settings.webhook_allow_private,
            max_connections=settings.deliver_concurrency + settings.deliver_aside,
            host_concurrency=settings.webhook_host_concurrency,
            calls=metrics.webhook_calls,
            down=metrics.hosts_down.labels(self.name),
            lookup=lookup,
            ssl_context=ssl_context,
        )
        # The recipients of a message come one after another: encode it once for all of them.
        self._latest: tuple[Message | None, bytes] = (None, b"")

    async def start(self) -> None:
        """Open the pool of connections."""
        await self._http.start()

    async def stop(self) -> None:
        """Close all connections. Calls under way are cut: drain before."""
        await self._http.stop()

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Call every URL of `contact` once, a repeated one only the first time."""
        if not contact.webhook:
            return Skip("no_address")

        def make(index: int, url: URL) -> Request | Dead:
            body = self._body(delivery)
            return make_request(url, contact.webhook[index], delivery, body, now_s=self._clock())

        return await self._http.send([address.url for address in contact.webhook], make, self._judge)

    def _judge(self, reply: Reply) -> Outcome:
        return outcome_of_status(reply.status, reply.retry_after, now_s=self._clock())

    def _body(self, delivery: Delivery) -> bytes:
        message, envelope = self._latest
        if message is not delivery.message:
            envelope = public_envelope(delivery.message)
            self._latest = (delivery.message, envelope)
        return b'{"user":' + msgspec.json.encode(delivery.user) + b',"message":' + envelope + b"}"
