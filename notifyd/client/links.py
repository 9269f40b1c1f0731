"""One connection of a push client: a WebSocket, or server-sent events with acks by HTTP beside them."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from yarl import URL

Frame = dict[str, Any]

_CLOSE_TIMEOUT_S: Final = 1.0
_MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
#: Events read ahead of who works them off.
_AHEAD: Final = 100
#: Refusals of a stream for good, and the close codes that a WebSocket gets in their place.
_FINAL: Final = {400: 4400, 401: 4401, 403: 4403, 429: 4429}
#: What a lost connection counts as (RFC 6455, 7.1.5).
_LOST: Final = 1006
_POST_AGAIN_S: Final = 1.0


class Link(Protocol):
    """What `PushClient` needs of a connection."""

    @property
    def close_code(self) -> int:
        """Why it ended, once it has."""

    async def receive(self, timeout_s: float) -> str | bytes | None:
        """Return the next text, one frame or an array of them; None at the end. Raises `TimeoutError`."""

    async def send(self, frame: Frame) -> None:
        """Send `ack`, `seen` or `read`; raises `OSError` or `aiohttp.ClientError` when that is over."""

    async def close(self) -> None:
        """End it."""


async def open_link(session: aiohttp.ClientSession, url: str, token: str, hello: Frame) -> Link:
    """Connect and say hello: by server-sent events where the URL ends in `/sse`, else by WebSocket.

    Raises `aiohttp.ClientError` or `OSError`.
    """
    if URL(url).path.endswith("/sse"):
        return await EventLink.open(session, URL(url), token, hello)
    ws = await session.ws_connect(
        url,
        protocols=("notifyd.v1",),
        max_msg_size=_MAX_FRAME_BYTES,
        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
    )
    await ws.send_json({**hello, "token": token})
    return SocketLink(ws)


class SocketLink:
    """A WebSocket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws

    @property
    def close_code(self) -> int:
        """The code of the close frame."""
        return self._ws.close_code or _LOST

    async def receive(self, timeout_s: float) -> str | bytes | None:
        """Return the next text."""
        got = await self._ws.receive(timeout=timeout_s)
        return got.data if got.type is aiohttp.WSMsgType.TEXT else None

    async def send(self, frame: Frame) -> None:
        """Send a frame."""
        await self._ws.send_json(frame)

    async def close(self) -> None:
        """Do the closing handshake, for a moment at most."""
        await self._ws.close()


class EventLink:
    """A stream of server-sent events; what is to be said goes to `POST /v1/ack` beside it."""

    def __init__(self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse, token: str) -> None:
        self._session = session
        self._response = response
        self._headers = {"Authorization": f"Bearer {token}"}
        self._texts: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._reader = asyncio.create_task(self._read(), name="read server-sent events")
        self._close_code = _LOST
        self._name = ""

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: URL, token: str, hello: Frame) -> EventLink:
        """Ask for a stream. A refusal for good is read from the link like any other end."""
        query = [("ack", "true" if hello["ack"] else "false")]
        query += [("content", version) for version in hello["content"]]
        query += [("at", place) for place in hello.get("at", ())]
        if hello.get("cursor") is not None:
            query.append(("cursor", hello["cursor"]))
        response = await session.get(
            url.update_query(query),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        if response.status != 200 and response.status not in _FINAL:
            response.close()
            raise aiohttp.ClientError(f"HTTP {response.status} from {url}")
        return cls(session, response, token)

    @property
    def close_code(self) -> int:
        """What the last `error` named."""
        return self._close_code

    async def receive(self, timeout_s: float) -> str | bytes | None:
        """Return the data of the next event, or the answer to an ack."""
        # `wait_for` of Python 3.11 may lose a cancellation that meets an event.
        async with asyncio.timeout(timeout_s):
            return await self._texts.get()

    async def send(self, frame: Frame) -> None:
        """Post a frame until it is confirmed; what is refused for good waits for the next connection."""
        url = self._response.url.join(URL("../ack")).with_query(None)
        while not self._reader.done():
            try:
                async with self._session.post(
                    url, json={"session": self._name, frame["op"]: frame["ids"]}, headers=self._headers
                ) as answer:
                    if answer.status == 200:
                        said = await answer.json()
                        ok = {"op": "ok", **said["ok"], "refused": said["refused"]}
                        await self._texts.put(msgspec.json.encode(ok))
                        return
                    if answer.status < 500 and answer.status != 429:
                        return
            except (OSError, TimeoutError, aiohttp.ClientError):
                pass
            await asyncio.sleep(random.uniform(0, _POST_AGAIN_S))

    async def close(self) -> None:
        """Drop the connection."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._response.close()

    async def _read(self) -> None:
        try:
            if self._response.status != 200:
                await self._read_refusal()
            else:
                await self._read_events()
        except (OSError, TimeoutError, ValueError, aiohttp.ClientError):
            pass  # as lost as any connection
        await self._texts.put(None)

    async def _read_events(self) -> None:
        data: list[bytes] = []
        while line := await self._response.content.readline(max_line_length=_MAX_FRAME_BYTES):
            line = line.rstrip(b"\r\n")
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif not line and data:
                await self._give(b"\n".join(data))
                data = []

    async def _give(self, text: bytes) -> None:
        if text.startswith(b'{"op":"error"'):
            self._close_code = int(msgspec.json.decode(text).get("close", _LOST))
        elif text.startswith(b'{"op":"welcome"'):
            # Acks name it, so that this device is not told what it said itself.
            self._name = msgspec.json.decode(text)["session"]
        await self._texts.put(text)

    async def _read_refusal(self) -> None:
        problem = await self._response.json(content_type=None)
        self._close_code = _FINAL[self._response.status]
        error = {"op": "error", "code": problem.get("code", ""), "detail": problem.get("detail", "")}
        await self._texts.put(msgspec.json.encode(error))
