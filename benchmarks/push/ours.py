"""Our push server for the benchmarks: the real hub, door and event writer, without a broker.

Obeys as `servers` tells, and beyond that: `counts` tells how many clients were cut and events dropped,
`stream PER_S FANOUT COUNT PADDING` and `stop` begin and end a steady flow, `drain S` sends all away.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from benchmarks.push.servers import Deliver, obey, tell
from benchmarks.push.work import SECRET, envelope
from notifyd.http.server import HttpServer, PublicSite
from notifyd.log import configure_logging
from notifyd.message.envelope import Limits, decode
from notifyd.metrics import Metrics
from notifyd.push.auth import TokenVerifier
from notifyd.push.endpoint import add_push_routes
from notifyd.push.hub import Hub
from notifyd.roles.collector import calm_collector
from notifyd.settings import Settings, load_settings
from notifyd.stream.events import EventWriter
from notifyd.stream.topics import Topics

#: Events that may be under way when a round begins.
MOST_EVENTS = 20_000


async def ours() -> None:
    """The real hub, door and event writer; only the producer's way to the broker is missing."""
    settings: Settings = load_settings(jwt_secret=SECRET, log_level="error")
    configure_logging(settings, pod="bench")
    metrics, limits = Metrics(), Limits.of(settings)
    events = EventWriter(_NoBroker(), Topics.of(settings), settings, metrics, role="ws")  # type: ignore[arg-type]
    await events.start()
    hub = Hub(settings, metrics, events, "bench", incarnation="bench")
    hub.begin(0, 0)
    site = PublicSite(lambda _: [])
    add_push_routes(site.app, hub, TokenVerifier(settings), settings)
    site.claim("ws")
    server = HttpServer("0.0.0.0", 0, setting="NOTIFYD_HTTP")
    server.bind()
    await server.start(site.app)
    calm_collector()
    offset = 0

    async def counts(_: list[str]) -> None:
        drops = [
            s.value for m in metrics.events_dropped.collect() for s in m.samples if s.name.endswith("_total")
        ]
        tell(f"counts {metrics.evicted._value.get():.0f} {sum(drops):.0f}")

    def deliver(value: bytes) -> None:
        nonlocal offset
        message = decode(value, timestamp_ms=int(time.time() * 1000), limits=limits)
        hub.publish(message, 0, offset)
        offset += 1

    flow: list[asyncio.Task[None]] = []

    async def stream(words: list[str]) -> None:
        flow.append(asyncio.create_task(_flow(deliver, *map(int, words))))
        tell("streaming")

    async def stop(_: list[str]) -> None:
        await _end(flow)
        tell("stopped")

    async def drain(words: list[str]) -> None:
        began = time.monotonic()
        await hub.drain(float(words[0]))
        tell(f"drained {time.monotonic() - began:.3f}")

    async def settle() -> None:
        # A broker would take its time too: no burst may find the buffer of events full.
        while hub._outbox._dirty or events._posted > MOST_EVENTS:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    tell(f"port {server.port}")
    await obey(deliver, {"counts": counts, "stream": stream, "stop": stop, "drain": drain}, settle)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


async def _flow(deliver: Deliver, per_s: int, fanout: int, count: int, padding: int) -> None:
    """Deliver `per_s` messages a second, each to the next `fanout` of `count` users."""
    number, at = 0, 0
    began = time.monotonic()
    while True:
        users = range(at, min(at + fanout, count))
        deliver(envelope(number, users, t_us=int(time.time() * 1e6), padding=padding))
        at += fanout
        if at >= count:
            number, at = number + 1, 0
        began += 1 / per_s
        await asyncio.sleep(max(0.0, began - time.monotonic()))


class _NoBroker:
    """Takes events as the producer does, encoded and by record, and keeps them to itself."""

    async def partitions(self, _: str) -> int:
        return 12

    async def send_held(self, _: list[Any]) -> None:
        await asyncio.sleep(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ours())
