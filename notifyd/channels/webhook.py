"""Webhooks: one signed HTTPS POST to each URL of a user. What receivers see: docs/reference/webhooks.md."""

from __future__ import annotations

import ssl
import time
from functools import lru_cache

import msgspec
from yarl import URL

from notifyd.channels.addresses import Lookup
from notifyd.channels.http_calls import HttpCalls
from notifyd.channels.http_message import Reply, Request
from notifyd.channels.port import Delivery
from notifyd.channels.webhook_answers import outcome_of_status
from notifyd.channels.webhook_request import make_request
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Outcome, Skip
from notifyd.message.envelope import public_envelope
from notifyd.metrics import Metrics
from notifyd.settings import Settings


class WebhookChannel:
    """The channel `webhook`.

    A send ends within `webhook_timeout_s` and the wait for a place (1 s for each host at most);
    the URLs of a user are called at the same time. `lookup` and `ssl_context` are
    ports for tests.
    """

    name = "webhook"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._http = HttpCalls(
            self.name,
            settings,
            metrics,
            timeout_s=settings.webhook_timeout_s,
            host_concurrency=settings.webhook_host_concurrency,
            calls=metrics.webhook_calls,
            lookup=lookup,
            ssl_context=ssl_context,
        )
        # Connections are all that there is to open and to close.
        self.start, self.stop = self._http.start, self._http.stop
        # The recipients of a message come one after another: encode it once for all of them.
        self._envelope = lru_cache(maxsize=1)(public_envelope)

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Call every URL of `contact` once, a repeated one only the first time."""
        if not contact.webhook:
            return Skip("no_address")

        def make(index: int, url: URL) -> Request | Dead:
            body = self._body(delivery)
            return make_request(url, contact.webhook[index], delivery, body, now_s=time.time())

        return await self._http.send([address.url for address in contact.webhook], make, _judge)

    def _body(self, delivery: Delivery) -> bytes:
        envelope = self._envelope(delivery.message)
        return b'{"user":' + msgspec.json.encode(delivery.user) + b',"message":' + envelope + b"}"


def _judge(reply: Reply) -> Outcome:
    return outcome_of_status(reply.status, reply.retry_after, now_s=time.time())
