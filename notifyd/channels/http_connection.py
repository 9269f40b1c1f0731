"""One connection of the HTTP client: a request goes out, the status of its answer comes back."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from aiohttp.http import HttpResponseParser

from notifyd.channels.http_faults import Disconnected, NotHttp
from notifyd.channels.http_message import Reply

#: What is read of an answer's body, so that its connection can serve again. The status is the answer.
MAX_BODY_BYTES: Final = 4096
_BODY_S: Final = 0.5
#: What uvloop's clock rounds to.
_CLOCK_S: Final = 0.001


class Connection(asyncio.Protocol):
    """One connection, for one call at a time."""

    __slots__ = (
        "_deadline",
        "_loop",
        "_parser",
        "_payload",
        "_reading_paused",
        "_received",
        "_reply",
        "_timer",
        "_timer_at",
        "_waiter",
        "idle_since",
        "is_closed",
        "is_reusable",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: Any = None
        self.is_closed = False
        #: Whether the answer that came last left it as it was.
        self.is_reusable = False
        self.idle_since = 0.0
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._payload: Any = None
        self._received = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._parser = HttpResponseParser(
            cast(Any, self), loop, 2**16, read_until_eof=True, auto_decompress=False
        )
        # A seam of the parser's stream: it asks for this, and never waits, since nobody reads the body.
        self._reading_paused = False

    async def call(self, data: bytes, deadline: float) -> Reply:
        """Send a request; return its answer. Raises `TimeoutError`, `Disconnected`, `NotHttp`."""
        if self.is_closed:
            raise Disconnected
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        self.is_reusable = False
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            self._arm(deadline)
        self.transport.write(data)
        try:
            return await waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """End the connection at once: what is not sent yet has nobody who waits for it."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is not None:
            self.transport.abort()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note what it writes to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Read on; end the call once its answer has come."""
        waiter = self._waiter
        if waiter is None or waiter.done():  # nothing was asked, or nobody wants to know any more
            self.close()
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception:  # of many kinds, and all say that it is not HTTP
            if self._reply is None:
                self._fail(NotHttp())
            else:
                self._finish(keeps=False)
            return
        is_body = self._reply is not None
        for message, payload in messages:
            if self._reply is None:
                self._read_head(message, payload)
            else:  # a second answer to one request
                self.is_reusable = False
        if self._reply is None:
            return
        self._received += len(data) if is_body else 0
        if self._payload.is_eof():
            self._finish(keeps=self.is_reusable)
        elif self._received > MAX_BODY_BYTES:
            self._finish(keeps=False)
        elif not is_body:
            self._deadline = min(self._deadline, self._loop.time() + _BODY_S)
            self._arm(self._deadline)

    def _read_head(self, message: Any, payload: Any) -> None:
        status = message.code
        if 100 <= status < 200 and status != 101:
            return
        self._reply = Reply(status, message.headers.get("Retry-After") if status >= 300 else None)
        self._payload = payload
        self._received = 0
        self.is_reusable = not message.should_close and status != 101

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call: by its status where that has come."""
        self.close()
        if self._reply is not None:
            self._finish(keeps=False)
        else:
            self._fail(Disconnected())

    def pause_reading(self) -> None:
        """Do nothing: a body ends here long before it is too much."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing."""

    # Within

    def _finish(self, *, keeps: bool) -> None:
        reply, self._reply, self._payload = self._reply, None, None
        waiter = self._waiter
        assert reply is not None
        self.is_reusable = keeps and not self.transport.get_write_buffer_size()
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _fail(self, error: Exception) -> None:
        self.is_reusable = False
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    # A limit of time for each call: one timer, which is armed anew once it ends before that of the call.

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._on_time), at

    def _on_time(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() + _CLOCK_S < self._deadline:
            self._arm(self._deadline)
        elif self._reply is not None:  # the status has said it all
            self._finish(keeps=False)
        else:
            self._fail(TimeoutError())
