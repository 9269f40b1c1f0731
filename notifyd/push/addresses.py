"""Where a client really is: behind proxies that we trust, what they say of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What one subscriber gets of IPv6: within it an attacker has as many addresses as they like.
_IPV6_PREFIX: Final = 64


class Proxies:
    """The networks whose `X-Forwarded-For` is believed; by default nobody's, since anyone can write one."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)

    def client_of(self, peer: str | None, forwarded: Iterable[str] = ()) -> str:
        """Return what connections are counted by: an IPv4 address or an IPv6 /64; "" where nothing is known.

        Of the chain in `forwarded` (header values in their order) the last address counts that no
        trusted proxy has: what stands before it is the client's own invention.
        """
        address = _parse(peer or "")
        if address is None:
            return ""
        chain = [part for value in forwarded for part in value.split(",")]
        while chain and self._is_trusted(address):
            before = _parse(chain.pop())
            if before is None:
                break
            address = before
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
        return str(address)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _parse(text: str) -> _Address | None:
    """Read an address, as proxies write it: with a port, in brackets, IPv4 within IPv6."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
