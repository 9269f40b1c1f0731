import asyncio
import socket
import threading

import pytest

from notifyd.channels.addresses import (
    AddressRefused,
    GuardedResolver,
    SystemLookup,
    guarded_socket,
    is_open,
)

OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "169.253.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "64:ff9b::808:808",  # NAT64 of 8.8.8.8
]

CLOSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:127.0.0.1",  # IPv4-mapped
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",  # NAT64 of the metadata address
    "64:ff9b:1::808:808",  # local-use NAT64
    "2002:7f00:1::",  # 6to4
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",  # a cloud's metadata
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "localhost",
    "127.1",
    "0x7f000001",
    "2130706433",
    "",
]


@pytest.mark.parametrize("address", OPEN)
def test_public_addresses_are_open(address: str) -> None:
    assert is_open(address)


@pytest.mark.parametrize("address", CLOSED)
def test_what_is_not_public_is_closed(address: str) -> None:
    assert not is_open(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:10.0.0.1"])
def test_no_socket_is_made_for_a_closed_address(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(AddressRefused):
        guarded_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443)))


def resolver(*addresses: str, allow_private: bool = False) -> GuardedResolver:
    async def lookup(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses]

    return GuardedResolver(lookup, allow_private=allow_private)


async def test_a_name_is_reached_by_its_open_addresses_alone() -> None:
    found = await resolver("127.0.0.1", "1.1.1.1", "::1").resolve("a.example", 443)
    assert [(item["host"], item["port"], item["family"]) for item in found] == [
        ("1.1.1.1", 443, socket.AF_INET)
    ]


async def test_a_name_without_an_open_address_is_refused() -> None:
    with pytest.raises(AddressRefused):
        await resolver("127.0.0.1", "fe80::1%eth0").resolve("a.example", 443)


async def test_a_name_without_any_address_is_a_failure_of_dns_not_a_refusal() -> None:
    with pytest.raises(OSError, match="no address") as caught:
        await resolver().resolve("a.example", 443)
    assert not isinstance(caught.value, AddressRefused)


async def test_private_addresses_pass_where_tests_allow_them() -> None:
    assert len(await resolver("127.0.0.1", "::1", allow_private=True).resolve("a.example", 443)) == 2


async def test_a_lookup_nobody_waits_for_gives_its_thread_back(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def silent_server(*_args: object, **_named: object) -> list[object]:
        may_end.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", silent_server)
    lookup = SystemLookup(max_lookups=1)
    given_up = asyncio.create_task(lookup("slow.example", 443))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    next_one = asyncio.create_task(lookup("b.example", 443))
    await asyncio.sleep(0)
    assert not next_one.done()
    may_end.set()
    assert await asyncio.wait_for(next_one, 10) == [(socket.AF_INET, "1.1.1.1")]


async def test_a_failed_lookup_reaches_who_asked() -> None:
    with pytest.raises(OSError):
        await SystemLookup()("x" * 64 + ".invalid", 443)
