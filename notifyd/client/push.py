"""`PushClient`: receives a user's messages over bad networks and deploys, each of them once."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from notifyd.client.links import Link, open_link
from notifyd.client.receipts import OPS, Receipts
from notifyd.errors import PermanentError

Frame = dict[str, Any]
TokenSource = str | Callable[[], str | Awaitable[str]]

#: Full jitter between 0 and twice as much after each failure, up to the cap.
_BACKOFF_S: Final = 0.5
_BACKOFF_CAP_S: Final = 15.0
#: A connection that lived for this long was a good one: the next failure counts as the first.
_GOOD_S: Final = 10.0
#: A shorter one, that was welcomed, counts as so many failures at most. Otherwise servers that come and go
#: make a device wait longer each time: 115 s in a storm of kills, where none was away for more than 15 s.
_FAILURES_KEPT: Final = 2
_CONNECT_TIMEOUT_S: Final = 10.0
_ACK_LINGER_S: Final = 0.05
#: Ids remembered to leave out what comes twice.
_SEEN_IDS: Final = 10_000

_REMEDIES: Final = {
    4401: "get another token",
    4403: "have the origin put on NOTIFYD_WS_ORIGINS",
    4429: "close other connections of this user",
}


class PushClosed(PermanentError):
    """The server ended the connection for good (close codes 4400-4499); `code` is the close code."""

    def __init__(self, code: int, reason: str, detail: str) -> None:
        super().__init__(
            f"the server closed the connection with {code}{': ' + detail if detail else ''}",
            reason=reason,
            remedy=_REMEDIES.get(code, ""),
        )
        self.code = code


class PushClient:
    """An async iterator over the frames of the server, as dicts; it reconnects by itself.

    ```python
    async with PushClient("wss://push.example/v1/push", get_token) as client:
        async for frame in client:
            if frame["op"] == "msg":
                show(frame["message"])
    ```

    With a URL that ends in `/sse` (`https://push.example/v1/push/sse`) it receives by server-sent events, for
    networks that let no WebSocket through.

    `url` may be several: each attempt takes the next, and only when all failed the waits become longer.
    `token` is a token, or a function (plain or async) that is asked for one at each connection.
    Messages that come twice are left out. With `acks` a message is acknowledged when the next
    frame is asked for, so when the loop's body has ended; with `acks_itself=False` by `ack(id)`.
    Acks are repeated over reconnects until the server confirms them. `cursor` is to be stored by
    who wants to go on later from here: it never claims more than what was iterated over.
    `on_gap`, plain or async, gets the `welcome` of a server that cannot say what was missed, and reads
    the inbox; the cursor moves when it has returned, and where it raises the gap is kept for the
    next connection. Without it the gap is told by that frame alone. `on_state`, plain or async, gets each
    `state` frame: what another device of the user did to messages, perhaps to one that comes later.
    `on_connection` gets `connecting`, `open`, `waiting` or `closed`, and a detail for people. Raises
    `PushClosed` when coming again cannot help.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: TokenSource,
        *,
        cursor: str | None = None,
        reads: Sequence[str] = ("1",),
        acks: bool = True,
        acks_itself: bool = True,
        confirm_s: float = 2.0,
        on_connection: Callable[[str, str], None] | None = None,
        on_state: Callable[[Frame], Awaitable[None] | None] | None = None,
        on_gap: Callable[[Frame], Awaitable[None] | None] | None = None,
        random_: random.Random | None = None,
    ) -> None:
        self._urls = deque([url] if isinstance(url, str) else url)
        self.cursor = cursor
        self._token = token
        self._reads = tuple(reads)
        self._acks = acks
        self._acks_itself = acks and acks_itself
        self._confirm_s = confirm_s
        self._on_connection = on_connection
        self._on_state = on_state
        self._on_gap = on_gap
        self._session: aiohttp.ClientSession | None = None
        self._random = random_ or random.Random()
        self._link: Link | None = None
        self._frames: deque[Frame] = deque()
        self._receipts = Receipts()
        self._is_due = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._seen: OrderedDict[str, bool] = OrderedDict()
        self._at: dict[str, int] = {}
        self._current: str | None = None
        self._heartbeat_s = _CONNECT_TIMEOUT_S
        self._opened_at: float | None = None
        self._attempts = self._failures = 0
        self._move_at: float | None = None
        self._next_at = 0.0
        self._last_error: Frame = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._acknowledge_current()
            await self.confirm(self._confirm_s)
        await self.close()

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        self._acknowledge_current()
        while not self._is_closed:
            while self._frames:
                frame = self._frames.popleft()
                if frame.get("op") == "welcome" and frame.get("missing") == "inbox":
                    await self._fill_gap(frame)
                if frame.get("op") == "state" and self._on_state is not None:
                    result = self._on_state(frame)
                    if inspect.isawaitable(result):
                        await result
                if self._take(frame):
                    return frame
            await self._receive()
        raise StopAsyncIteration

    @property
    def url(self) -> str:
        """The address of this connection, or of the next attempt."""
        return self._urls[0]

    @property
    def unconfirmed(self) -> int:
        """How many acks, `seen` and `read` the server has not confirmed yet."""
        return len(self._receipts)

    def ack(self, *ids: str) -> None:
        """Acknowledge messages: the user's device has them."""
        for message_id in ids:
            if message_id in self._seen:
                self._seen[message_id] = True
        self.mark("ack", *ids)

    def mark(self, op: str, *ids: str) -> None:
        """Say `ack`, `seen` or `read` of messages; sent soon, kept until confirmed."""
        if op not in OPS:
            raise ValueError(f"{op!r} is none of {', '.join(OPS)}")
        self._receipts.add(op, ids)
        self._is_due.set()

    async def confirm(self, timeout_s: float) -> bool:
        """Wait until all acks are confirmed, so long at most; frames that come meanwhile are kept."""
        kept: deque[Frame] = deque()
        with contextlib.suppress(TimeoutError, PushClosed):
            async with asyncio.timeout(timeout_s):
                while len(self._receipts) and not self._is_closed:
                    while self._frames:
                        frame = self._frames.popleft()
                        if frame.get("op") == "welcome":
                            self._open(frame)
                        # What moves the cursor waits for its turn behind what it covers, and what another
                        # device says of a message for its turn behind that.
                        if frame.get("op") in {"msg", "state", "welcome", "pos"}:
                            kept.append(frame)
                        else:
                            self._take(frame)
                    if len(self._receipts):
                        await self._receive()
        self._frames.extendleft(reversed(kept))
        return not len(self._receipts)

    async def close(self) -> None:
        """End the connection and the iteration."""
        self._is_closed = True
        await self._drop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Frames

    def _take(self, frame: Frame) -> bool:
        """Work in what a frame says; False when the caller need not see it."""
        op = frame.get("op")
        if op == "msg":
            return self._take_message(frame)
        if op == "welcome":
            self._open(frame)
            self._move_to(frame)
        elif op == "pos":
            self._move_to(frame)
        elif op == "ok":
            self._receipts.confirm(frame)
        elif op == "drain":
            first, last = frame["after"]
            self._move_at = self._now() + self._random.uniform(first, last) / 1000
        elif op == "error":
            self._last_error = frame
        return True

    def _open(self, frame: Frame) -> None:
        """Begin the session; a second `welcome` only says that nothing is missing any more."""
        if self._opened_at is None:
            self._opened_at = self._now()
            self._heartbeat_s = float(frame.get("heartbeat", _CONNECT_TIMEOUT_S))
            self._receipts.begin()
            self._is_due.set()
            self._say("open", f"session {frame.get('session')}")

    async def _fill_gap(self, frame: Frame) -> None:
        """Have the inbox read; what comes later on this connection waits, the cursor too."""
        if self._on_gap is None:
            return
        try:
            result = self._on_gap(frame)
            if inspect.isawaitable(result):
                await result
        except BaseException:
            # The cursor has not moved: the next connection is told of the gap again.
            self._frames.clear()
            await self._leave("the gap was not filled")
            raise

    def _take_message(self, frame: Frame) -> bool:
        partition, _, offset = str(frame.get("at", "")).partition(":")
        if offset:
            self._at[partition] = max(int(offset), self._at.get(partition, -1))
        message_id = frame["message"]["UUID"]
        if message_id in self._seen:
            if self._seen[message_id]:
                self.mark("ack", message_id)
            return False
        self._seen[message_id] = False
        if len(self._seen) > _SEEN_IDS:
            self._seen.popitem(last=False)
        if self._acks_itself:
            self._current = message_id
        return True

    def _move_to(self, frame: Frame) -> None:
        self.cursor = frame["cursor"]
        self._at.clear()

    def _acknowledge_current(self) -> None:
        if self._current is not None:
            self.ack(self._current)
            self._current = None

    # The connection

    async def _receive(self) -> None:
        """Wait for the next frames, over as many connections as it takes."""
        if self._link is None:
            await self._connect()
            return
        silence_s = 2 * self._heartbeat_s + 5
        wait_s = silence_s if self._move_at is None else max(0.001, self._move_at - self._now())
        try:
            text = await self._link.receive(min(wait_s, silence_s))
        except TimeoutError:
            if self._move_at is not None and self._now() >= self._move_at:
                await self._leave("moving to another server", wait_s=0.0)
            elif wait_s >= silence_s:
                await self._leave("no sign of life")
            return
        if text is not None:
            parsed = msgspec.json.decode(text)
            self._frames.extend(parsed if isinstance(parsed, list) else [parsed])
            return
        code = self._link.close_code
        if 4400 <= code <= 4499:
            self._is_closed = True
            await self._drop()
            self._say("closed", f"code {code}")
            error = self._last_error
            raise PushClosed(code, str(error.get("code", f"closed_{code}")), str(error.get("detail", "")))
        moved = self._move_at
        await self._leave(
            f"closed with {code}", wait_s=None if moved is None else max(0.0, moved - self._now())
        )

    async def _connect(self) -> None:
        delay_s = self._next_at - self._now()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        self._say("connecting", self.url)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                token = self._token() if callable(self._token) else self._token
                if inspect.isawaitable(token):
                    token = await token
                if self._session is None:
                    self._session = aiohttp.ClientSession()
                self._link = await open_link(self._session, self.url, token, self._hello())
        except aiohttp.WSServerHandshakeError as error:
            await self._leave(f"HTTP {error.status} from {self.url}")
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            await self._leave(str(error) or "no answer in time")
        else:
            self._last_error = {}
            self._heartbeat_s = _CONNECT_TIMEOUT_S
            self._sender = asyncio.create_task(self._send_receipts(self._link), name="push acks")

    def _hello(self) -> Frame:
        hello: Frame = {"op": "hello", "content": self._reads, "ack": self._acks}
        if self.cursor is not None:
            hello["cursor"] = self.cursor
            hello["at"] = [f"{partition}:{offset}" for partition, offset in self._at.items()]
        return hello

    async def _send_receipts(self, link: Link) -> None:
        """Send what is due in batches; ends with its connection, and what was lost is sent by the next."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            while True:
                await self._is_due.wait()
                if self._opened_at is None:
                    # Before the welcome nothing but the hello is due.
                    self._is_due.clear()
                    continue
                await asyncio.sleep(_ACK_LINGER_S)
                self._is_due.clear()
                for frame in self._receipts.take():
                    await link.send(frame)

    async def _leave(self, why: str, *, wait_s: float | None = None) -> None:
        """Let go of the connection and choose the moment of the next: by backoff unless told."""
        if self._opened_at is not None:
            is_good = self._now() - self._opened_at >= _GOOD_S
            self._failures = 0 if is_good else min(self._failures, _FAILURES_KEPT)
        if wait_s is None:
            wait_s = self._random.uniform(0, self._next_ceiling_s())
        await self._drop()
        self._urls.rotate(-1)
        self._next_at = self._now() + wait_s
        self._say("waiting", f"{why}; again in {wait_s:.1f} s")

    def _next_ceiling_s(self) -> float:
        """Count one end; where there are several addresses, one of the others may be well."""
        self._attempts += 1
        if self._attempts % len(self._urls):
            return _BACKOFF_S
        self._failures += 1
        return min(_BACKOFF_CAP_S, _BACKOFF_S * 2.0 ** min(self._failures - 1, 16))

    async def _drop(self) -> None:
        sender, link = self._sender, self._link
        self._sender = self._link = self._opened_at = self._move_at = None
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        if link is not None:
            await link.close()

    def _say(self, state: str, detail: str) -> None:
        if self._on_connection is not None:
            self._on_connection(state, detail)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
