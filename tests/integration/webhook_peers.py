"""The other sides that the webhook tests call: one that behaves, and some that do not."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from notifyd.channels.addresses import Lookup
from notifyd.channels.port import Delivery
from notifyd.channels.webhook import WebhookChannel
from notifyd.delivery.contact import Contact, WebhookAddress
from notifyd.message.envelope import Limits, decode
from notifyd.message.ids import new_id
from notifyd.metrics import Metrics
from notifyd.settings import Settings

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Call:
    """One request as the receiver got it."""

    body: bytes
    headers: dict[str, str]
    path: str

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A receiver that notes what it gets and answers `status` with `headers`, after `delay_s`."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    peers: set[Any] = field(default_factory=set)
    most_at_once: int = 0
    _at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def answer(self, request: web.Request) -> web.Response:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.peers.add(request.transport.get_extra_info("peername") if request.transport else None)
            body = await request.read()
            self.calls.append(Call(body, dict(request.headers), request.path_qs))
            await asyncio.sleep(self.delay_s)
            return web.Response(status=self.status, headers=self.headers)
        finally:
            self._at_once -= 1


@asynccontextmanager
async def receiver(
    *, host: str = "127.0.0.1", ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    peer = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=ssl_context)
    await site.start()
    peer.port = runner.addresses[0][1]
    try:
        yield peer
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(connection: Connection) -> AsyncIterator[str]:
    """A TCP server of one's own making; yields the URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await connection(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by a reset instead of an orderly close."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def channel(
    *,
    allow_private: bool = True,
    timeout_s: float = 5.0,
    host_concurrency: int = 20,
    lookup: Lookup | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[WebhookChannel]:
    settings = Settings(
        webhook_allow_private=allow_private,
        webhook_timeout_s=timeout_s,
        webhook_host_concurrency=host_concurrency,
    )
    made = WebhookChannel(settings, Metrics(), lookup=lookup, ssl_context=ssl_context)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def names(table: dict[str, str]) -> Lookup:
    """A resolver that knows these names alone."""

    async def lookup(host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        address = table[host]
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address)]

    return lookup


def delivery(
    user: str = "alice", *, attempt: int = 1, message_id: str | None = None, **content: Any
) -> Delivery:
    value = {
        "from": "orders",
        "UUID": message_id or new_id(),
        "content": {
            "version": 1.1,
            "title": "On its way",
            "contacts": {user: {"email": ["a@b.c"]}},
            **content,
        },
        "toUserIds": [user, "somebody-else"],
        "createBy": "orders-svc",
        "createDateTime": "2026-11-23T10:00:00Z",
    }
    message = decode(
        json.dumps(value).encode(),
        timestamp_ms=1_795_000_000_000,
        limits=Limits.of(Settings()),
        is_exempt=True,
    )
    return Delivery(message, user, "webhook", "", attempt)


def contact(*urls: str, secret: str | None = None) -> Contact:
    return Contact(webhook=tuple(WebhookAddress(url, secret) for url in urls))


def certificates(folder: Path, name: str, *, days: int = 1) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for `name`; gives the server's context and one for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ends = now + dt.timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - dt.timedelta(days=1))
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))
