"""Web push: an encrypted message to each browser in which a user subscribed. docs/reference/webpush.md."""

from __future__ import annotations

import time
from functools import lru_cache

from yarl import URL

from notifyd.channels.addresses import Lookup
from notifyd.channels.http_calls import HttpCalls
from notifyd.channels.http_message import Reply, Request
from notifyd.channels.port import Delivery
from notifyd.channels.webhook_answers import outcome_of_status
from notifyd.channels.webpush_request import Vapid, make_plain, make_push
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Outcome, Skip
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.settings import Settings


class WebPushChannel:
    """The channel `webpush`.

    A send ends within `webpush_timeout_s` and the wait for a place (1 s for each push service at most).
    `lookup` is a port for tests.
    """

    name = "webpush"

    def __init__(self, settings: Settings, metrics: Metrics, *, lookup: Lookup | None = None) -> None:
        if settings.webpush_key is None:
            raise ConfigError("NOTIFYD_WEBPUSH_KEY is not set", reason="bad_setting")
        self._vapid = Vapid(settings.webpush_key.get_secret_value(), settings.webpush_subject)
        self._http = HttpCalls(
            self.name,
            settings,
            metrics,
            timeout_s=settings.webpush_timeout_s,
            host_concurrency=settings.webpush_host_concurrency,
            calls=metrics.webpush_calls,
            lookup=lookup,
        )
        # Connections are all that there is to open and to close.
        self.start, self.stop = self._http.start, self._http.stop
        # The recipients of a message come one after another: cut it to size once for all of them.
        self._plain = lru_cache(maxsize=1)(make_plain)

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Push to every subscription of `contact` once, a repeated one only the first time."""
        if not contact.webpush:
            return Skip("no_address")

        def make(index: int, url: URL) -> Request | Dead:
            plain = self._plain(delivery.message)
            return make_push(url, contact.webpush[index], delivery, plain, self._vapid, now_s=time.time())

        return await self._http.send([one.endpoint for one in contact.webpush], make, _judge)


def _judge(reply: Reply) -> Outcome:
    if reply.status == 404:
        # The service does not know the subscription any more (RFC 8030, 7.3), as with 410.
        return Dead("gone", "HTTP 404")
    return outcome_of_status(reply.status, reply.retry_after, now_s=time.time())
