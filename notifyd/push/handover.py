"""Taking a socket over from aiohttp: it does route and headers, the rest is ours.

aiohttp keeps a task, a parser, a queue and a request for every WebSocket, 14.5 KB a connection;
after the handover there is one slotted object. The names of aiohttp used here are not public
(`RequestHandler._upgraded`, `_message_tail`, `_buffer_paused`, `connection_lost`): setup.cfg pins
the version and tests/integration/test_push_handover.py fails when one moves.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestHandler

from notifyd.push.connection import Connection
from notifyd.push.protocol import SUBPROTOCOL
from notifyd.push.websocket import accept_key

#: What the kernel may hold unsent for one connection before the socket counts as full: the rest
#: stays here, where a slow reader is seen.
_NOTSENT_LOWAT_BYTES: Final = 16 * 1024


class HandedOver(web.StreamResponse):
    """Tells aiohttp that there is nothing left to answer."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing: the connection is not aiohttp's any more."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


def check_handshake(request: web.BaseRequest) -> str:
    """Return the value of `Sec-WebSocket-Accept`; raises the HTTP answer else (RFC 6455, 4.2.1)."""
    headers = request.headers
    is_asked = headers.get("Upgrade", "").lower() == "websocket" and request.version >= HttpVersion11
    if not is_asked or not _is_upgraded(request):
        raise web.HTTPUpgradeRequired(
            text="this is a WebSocket: connect with `Upgrade: websocket`\n",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )
    # None of these may come twice (11.3); an intermediary may join what did to one line.
    for name in ("Sec-WebSocket-Version", "Sec-WebSocket-Key", "Host"):
        if len(headers.getall(name, ())) > 1:
            raise web.HTTPBadRequest(text=f"there is more than one {name}\n")
    if headers.get("Sec-WebSocket-Version") != "13":
        raise web.HTTPUpgradeRequired(
            text="WebSocket version 13 is spoken here\n",
            headers={"Sec-WebSocket-Version": "13", "Upgrade": "websocket", "Connection": "Upgrade"},
        )
    accept = accept_key(headers.get("Sec-WebSocket-Key", ""))
    if accept is None or request.body_exists or "Host" not in headers:
        raise web.HTTPBadRequest(
            text="Sec-WebSocket-Key is not 16 bytes in base64, or there is a body, or no Host\n"
        )
    return accept


def hand_over(
    request: web.BaseRequest,
    accept: str,
    connection: Connection,
    *,
    extension: str = "",
    dead_after_s: float,
) -> HandedOver:
    """Write the handshake and give the socket to `connection`, as `give_socket` does.

    `extension`: the value of the response's `Sec-WebSocket-Extensions`.
    """
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    is_offered = SUBPROTOCOL in (part.strip() for part in offered.split(","))
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b%b\r\n"
        % (
            accept.encode(),
            b"Sec-WebSocket-Extensions: %b\r\n" % extension.encode() if extension else b"",
            b"Sec-WebSocket-Protocol: %b\r\n" % SUBPROTOCOL.encode() if is_offered else b"",
        )
    )
    return give_socket(request, head, connection, dead_after_s=dead_after_s)


def give_socket(
    request: web.BaseRequest, head: bytes, connection: asyncio.Protocol, *, dead_after_s: float
) -> HandedOver:
    """Write `head` and give the socket to `connection`; return this from the handler at once.

    A peer that acknowledges nothing for `dead_after_s` seconds loses the connection (by the
    kernel: no ping, no timer). Raises `ConnectionResetError` when the peer is gone already.
    """
    handler: Any = request.protocol
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    _tune(transport, dead_after_s)
    transport.write(head)
    tail, was_held = handler._message_tail, handler._buffer_paused
    handler._message_tail = b""
    # aiohttp lets go as if the peer had left, without a transport to close.
    handler.transport = None
    handler.connection_lost(None)
    transport.set_protocol(connection)
    connection.connection_made(transport)
    if was_held:
        transport.resume_reading()
    if tail:
        connection.data_received(bytes(tail))
    return HandedOver()


def _is_upgraded(request: web.BaseRequest) -> bool:
    handler: Any = request.protocol
    return isinstance(handler, RequestHandler) and bool(handler._upgraded)


def _tune(transport: asyncio.Transport, dead_after_s: float) -> None:
    raw = transport.get_extra_info("socket")
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for name, value in (
        ("TCP_NOTSENT_LOWAT", _NOTSENT_LOWAT_BYTES),
        ("TCP_USER_TIMEOUT", int(dead_after_s * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            try:
                raw.setsockopt(socket.IPPROTO_TCP, option, value)
            except OSError:
                return
