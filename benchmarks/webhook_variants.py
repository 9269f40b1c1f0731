"""The processes of the webhook benchmark: `python -m benchmarks.webhook_variants NAME [PORT COUNT]`.

`receive` prints its port and answers each POST 200, a GET with what it saw; `bare` and `channel` print the
CPU seconds of their calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import cast

import aiohttp
import uvloop

from notifyd.channels.port import Delivery
from notifyd.channels.webhook import WebhookChannel
from notifyd.delivery.contact import Contact, WebhookAddress
from notifyd.delivery.outcome import Done
from notifyd.message.build import build_envelope
from notifyd.message.envelope import Limits, Message, decode
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings, load_settings

CALLS = 100
SECRET = "whsec_" + "c2VjcmV0IG9mIDI0IGJ5dGVz"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Receiver(asyncio.Protocol):
    """Reads requests by their length alone: cheaper than any client, so that it is never what is measured."""

    count = 0
    first_s = 0.0
    last_s = 0.0

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            if head.startswith(b"get"):
                self._tell()
                return
            at = head.index(b"content-length:") + 15
            size = int(head[at:].partition(b"\r\n")[0])
            if len(self._rest) < end + 4 + size:
                return
            self._rest = self._rest[end + 4 + size :]
            seen = _Receiver
            seen.last_s = time.time()
            seen.first_s = seen.first_s or seen.last_s
            seen.count += 1
            self._transport.write(_ANSWER)
            if b"connection: close" in head:
                self._transport.close()

    def _tell(self) -> None:
        seen = _Receiver
        body = json.dumps({"count": seen.count, "first_s": seen.first_s, "last_s": seen.last_s}).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        self._transport.close()


async def receive() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(_Receiver, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def make_message() -> Message:
    """Build one like those of the whole path."""
    value = build_envelope(
        id=new_id(),
        to=["ann"],
        sender="bench",
        created_by="bench",
        title="On its way",
        body="x" * 200,
        channels=["webhook"],
    )
    return decode(value, timestamp_ms=int(time.time() * 1000), limits=Limits.of(Settings()))


async def bare(port: int, count: int) -> float:
    """Post the same bytes in a loop."""
    body = b'{"user":"ann","message":' + make_message().raw + b"}"
    connector = aiohttp.TCPConnector(limit=CALLS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call() -> None:
            async with session.post(
                f"http://127.0.0.1:{port}/hook", data=body, headers={"Content-Type": "application/json"}
            ) as answer:
                await answer.read()

        return await _all(call, count)


async def channel(port: int, count: int) -> float:
    """Send by the channel, a message of its own each time."""
    settings = load_settings(
        {}, webhook_allow_private=True, webhook_host_concurrency=CALLS, deliver_concurrency=CALLS
    )
    made = WebhookChannel(settings, Metrics())
    contact = Contact(webhook=(WebhookAddress(f"http://127.0.0.1:{port}/hook", SECRET),))
    messages = [make_message() for _ in range(count)]
    await made.start()

    async def call() -> None:
        outcome = await made.send(Delivery(messages.pop(), "ann", "webhook", "", 1), contact)
        assert isinstance(outcome, Done), outcome

    try:
        return await _all(call, count)
    finally:
        await made.stop()


async def _all(call: Callable[[], Awaitable[None]], count: int) -> float:
    """Make `count` calls, `CALLS` at a time; return the CPU seconds that they took."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await call()

    before_s = time.process_time()
    await asyncio.gather(*(work() for _ in range(CALLS)))
    return time.process_time() - before_s


def main() -> None:
    """Run the one that is named."""
    name = sys.argv[1]
    if name == "receive":
        uvloop.run(receive())
    else:
        print(uvloop.run({"bare": bare, "channel": channel}[name](int(sys.argv[2]), int(sys.argv[3]))))


if __name__ == "__main__":
    main()
