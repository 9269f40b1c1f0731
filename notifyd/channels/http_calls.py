"""HTTP POSTs to hosts that others name: guarded against private addresses, bounded by host, size and time."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import Gauge
from yarl import URL

from notifyd.channels.addresses import GuardedResolver, Lookup, SystemLookup
from notifyd.channels.gate import Closed, Gate, Place
from notifyd.channels.http_client import KEEPALIVE_S, HttpClient
from notifyd.channels.http_faults import HttpFault
from notifyd.channels.http_message import Reply, Request
from notifyd.channels.outcomes import combine
from notifyd.channels.webhook_answers import outcome_of_error
from notifyd.channels.webhook_url import host_of, parse_url
from notifyd.delivery.outcome import Dead, Outcome, Retry
from notifyd.errors import PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import Settings

_DNS_CACHE_S: Final = 30
_CLOSED: Final = {
    "host_busy": "the host has too many calls under way",
    "host_down": "the host failed its last calls",
}


class HttpCalls:
    """A pool of connections for one channel.

    A call ends within `timeout_s` and the wait for a place (1 s for each host at most). `calls` shows how
    many are under way. `lookup` and `ssl_context` are ports for tests.
    """

    def __init__(
        self,
        channel: str,
        settings: Settings,
        metrics: Metrics,
        *,
        timeout_s: float,
        host_concurrency: int,
        calls: Gauge,
        lookup: Lookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._allow_private = settings.webhook_allow_private
        self._max_connections = settings.deliver_concurrency + settings.deliver_aside
        self._under_way = 0
        calls.set_function(lambda: self._under_way)
        self._lookup = lookup
        self._ssl_context = ssl_context
        self._gate = Gate(
            host_concurrency,
            warm_s=KEEPALIVE_S,
            clock=time.monotonic,
            down=metrics.hosts_down.labels(channel),
        )
        self._client: HttpClient | None = None

    async def start(self) -> None:
        """Open the pool of connections."""
        self._client = new_client(
            allow_private=self._allow_private,
            limit=self._max_connections,
            lookup=self._lookup,
            ssl_context=self._ssl_context,
        )

    async def stop(self) -> None:
        """Close all connections. Calls under way are cut: drain before."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def send(
        self,
        urls: Sequence[str],
        make: Callable[[int, URL], Request | Dead],
        judge: Callable[[Reply], Outcome],
    ) -> Outcome:
        """Call all URLs of a user at the same time, a repeated one only once, and combine what comes of it.

        `make` builds the request for the URL at an index, `judge` says what its answer means. Nothing is
        sent to any of them, and no request is built, while one host is busy or down: what comes back for
        that reason (`host_busy`, `host_down`) does not count as an attempt, so it must not have been one.
        """
        client = self._client
        if client is None:
            raise PermanentError("the channel is not started", reason="not_started")
        if len(urls) == 1:  # as with nearly all users
            url = parse_url(urls[0], allow_private=self._allow_private)
            outcome = url if isinstance(url, Dead) else await self._send_one(client, url, make, judge)
            is_gone = isinstance(outcome, Dead) and outcome.reason == "gone"
            return combine(self._channel, {0: outcome}) if is_gone else outcome
        return await self._send_all(client, urls, make, judge)

    async def _send_one(
        self,
        client: HttpClient,
        url: URL,
        make: Callable[[int, URL], Request | Dead],
        judge: Callable[[Reply], Outcome],
    ) -> Outcome:
        place = await self._gate.enter(host_of(url))
        if isinstance(place, Closed):
            return _put_off(place)
        has_failed: bool | None = None
        try:
            request = make(0, url)
            if isinstance(request, Dead):
                return request
            reply = await self._call(client, request, place.is_warm)
            has_failed = _has_failed((reply,))
        finally:
            self._gate.leave(place, has_failed=has_failed)
        return judge(reply) if isinstance(reply, Reply) else reply

    async def _send_all(
        self,
        client: HttpClient,
        urls: Sequence[str],
        make: Callable[[int, URL], Request | Dead],
        judge: Callable[[Reply], Outcome],
    ) -> Outcome:
        targets: dict[int, URL] = {}
        outcomes: dict[int, Outcome] = {}
        for index, text in enumerate(urls):
            if text in urls[:index]:
                continue
            url = parse_url(text, allow_private=self._allow_private)
            if isinstance(url, Dead):
                outcomes[index] = url
            else:
                targets[index] = url
        hosts = {index: host_of(url) for index, url in targets.items()}
        places: dict[str, Place] = {}
        replies: dict[int, Reply | Retry | Dead] = {}
        try:
            for host in sorted(set(hosts.values())):
                place = await self._gate.enter(host)
                if isinstance(place, Closed):
                    return _put_off(place)
                places[host] = place
            requests = {index: make(index, url) for index, url in targets.items()}
            replies = await self._call_all(
                client,
                {
                    index: (request, places[hosts[index]].is_warm)
                    for index, request in requests.items()
                    if isinstance(request, Request)
                },
            )
            outcomes |= {index: one for index, one in requests.items() if isinstance(one, Dead)}
        finally:
            for host, place in places.items():
                has_failed = _has_failed(reply for index, reply in replies.items() if hosts[index] == host)
                self._gate.leave(place, has_failed=has_failed)
        for index, reply in replies.items():
            outcomes[index] = judge(reply) if isinstance(reply, Reply) else reply
        return combine(self._channel, outcomes)

    async def _call_all(
        self, client: HttpClient, calls: Mapping[int, tuple[Request, bool]]
    ) -> dict[int, Reply | Retry | Dead]:
        async with asyncio.TaskGroup() as group:
            tasks = {index: group.create_task(self._call(client, *call)) for index, call in calls.items()}
        return {index: task.result() for index, task in tasks.items()}

    async def _call(self, client: HttpClient, request: Request, is_warm: bool) -> Reply | Retry | Dead:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._under_way += 1
        try:
            # Most hosts are called once in a while: keeping a connection to each would use up the sockets.
            return await client.post(request, deadline, keep=is_warm)
        except (HttpFault, OSError) as error:
            return outcome_of_error(error, timeout_s=self._timeout_s)
        finally:
            self._under_way -= 1


def _put_off(place: Closed) -> Retry:
    return Retry(place.reason, after_s=place.after_s, detail=_CLOSED[place.reason], counts=False)


def _has_failed(results: Iterable[Reply | Retry | Dead]) -> bool | None:
    """Say whether a host does not work; None where nothing came of any call, or nothing that is its fault."""
    found = [
        isinstance(result, Retry) or result.status >= 500
        for result in results
        # A retry that does not count is our own lack of sockets.
        if isinstance(result, Reply) or (isinstance(result, Retry) and result.counts)
    ]
    return all(found) if found else None


def new_client(
    *,
    allow_private: bool,
    limit: int,
    lookup: Lookup | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> HttpClient:
    """Make a client for `limit` calls at a time; it reaches public addresses alone, unless told otherwise."""
    return HttpClient(
        GuardedResolver(lookup or SystemLookup(), allow_private=allow_private),
        allow_private=allow_private,
        limit=limit,
        names_s=_DNS_CACHE_S,
        ssl_context=ssl_context,
    )
