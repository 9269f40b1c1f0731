"""Which network addresses a webhook may reach: public ones, judged after DNS.

The addresses that the name gave are filtered here and handed to the connection as numbers, so a
name that answers otherwise a moment later changes nothing. `guarded_socket` judges once more the
very address that a socket is about to connect to; it is the only way to a socket for a webhook.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

#: What getaddrinfo gives, cut down to (family, address).
Lookup = Callable[[str, int], Awaitable[list[tuple[socket.AddressFamily, str]]]]

#: Lookups at a time: each holds a thread until the system's resolver gives up.
_MAX_LOOKUPS: Final = 64

#: IANA special-purpose registry for IPv4 (RFC 6890 and later), multicast, and the one metadata
#: service that sits on a public address.
_CLOSED_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the own host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata (100.100.100.200)
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # with broadcast
    )
)

#: IPv6 is closed but for global unicast, and there for what embeds or reserves: an IPv4 address
#: in a tunnel (Teredo, 6to4) would be reached from wherever the tunnel ends.
_OPEN_V6: Final = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )  # IETF with Teredo, docs, 6to4, docs
)

#: RFC 6052: where a cluster has IPv6 only, its DNS64 gives public IPv4 hosts like this. Judged by
#: the IPv4 address within.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """The host has no address that may be reached. One text for all, so that errors compare equal."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "address not allowed")


def is_open(address: str) -> bool:
    """Say whether a webhook may connect to `address` (a number, with or without a zone)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip not in _NAT64:
            return ip in _OPEN_V6 and not any(ip in network for network in _CLOSED_V6)
        ip = ipaddress.IPv4Address(ip.packed[12:])
    return not any(ip in network for network in _CLOSED_V4)


def guarded_socket(addr_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for one getaddrinfo tuple; raises `AddressRefused`. A seam of aiohttp's connector."""
    family, type_, proto, _, address = addr_info
    if not is_open(address[0]):
        raise AddressRefused
    return socket.socket(family=family, type=type_, proto=proto)


class GuardedResolver(AbstractResolver):
    """A resolver for aiohttp that gives open addresses alone; raises `AddressRefused` where none is.

    A name with some closed addresses among open ones is reached by its open ones.
    """

    def __init__(self, lookup: Lookup, *, allow_private: bool = False) -> None:
        self._lookup = lookup
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look `host` up and keep what may be reached."""
        found = await self._lookup(host, port)
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, "the name has no address")
        kept = [(kind, address) for kind, address in found if self._allow_private or is_open(address)]
        if not kept:
            raise AddressRefused
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in kept
        ]

    async def close(self) -> None:
        """Nothing to let go of: lookups end by themselves."""


class SystemLookup:
    """The system's resolver, in daemon threads of its own.

    A lookup cannot be cancelled, and takes as long as the system's resolver waits for a server
    that is silent (often 10 s and more). In the loop's default executor such lookups would hold
    up everything else that runs there, and then the end of the process.
    """

    def __init__(self, max_lookups: int = _MAX_LOOKUPS) -> None:
        self._free = asyncio.Semaphore(max_lookups)

    async def __call__(self, host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        """Return the addresses of `host`; raises `OSError` (`socket.gaierror`)."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[tuple[socket.AddressFamily, str]]] = loop.create_future()
        await self._free.acquire()

        def settle(found: list[tuple[socket.AddressFamily, str]] | BaseException) -> None:
            self._free.release()
            if answer.done():  # nobody waits any longer
                return
            if isinstance(found, BaseException):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: list[tuple[socket.AddressFamily, str]] | BaseException
            try:
                infos = socket.getaddrinfo(
                    host.encode(), port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
                found = [(info[0], str(info[4][0])) for info in infos]
            except Exception as error:  # a thread's outer edge: who asked gets it
                found = error
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:  # the loop has ended meanwhile
                return

        threading.Thread(target=look_up, name="webhook-dns", daemon=True).start()
        return await answer
