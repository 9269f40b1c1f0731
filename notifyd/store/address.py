"""Where the database is: the URL taken apart, and each host's addresses one by one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from notifyd.errors import ConfigError, TransientError
from notifyd.store.errors import UNREACHABLE

_DEFAULT_PORT = "5432"


@dataclass(frozen=True, slots=True)
class Address:
    """One place to connect to, as options of libpq."""

    options: Mapping[str, str]


def parse_url(url: str) -> dict[str, Any]:
    """Take a `postgresql://` URL apart into options of libpq; `ConfigError` that never quotes it."""
    try:
        options: dict[str, Any] = parse_dsn(url)
    except psycopg2.Error:
        raise ConfigError(
            "NOTIFYD_DATABASE_URL cannot be read",
            reason="bad_setting",
            remedy="write it as postgresql://user:password@host:5432/database, "
            "with special characters of the password as %40 and the like",
        ) from None
    # The choice among hosts is made by us, and this one would make libpq go on by itself.
    options.pop("target_session_attrs", None)
    ports = options.get("port", _DEFAULT_PORT).split(",")
    if not all(port.isdigit() and 0 < int(port) < 65536 for port in ports if port):
        raise ConfigError(
            "NOTIFYD_DATABASE_URL has a port that is no port", reason="bad_setting", remedy="use 1 to 65535"
        )
    return options


def describe(options: Mapping[str, Any]) -> str:
    """Name the database for people: hosts, port and name, never user or password."""
    hosts = options.get("host") or options.get("hostaddr") or "localhost"
    return f"the database {options.get('dbname') or options.get('user', '')} at {hosts}:" + str(
        options.get("port") or _DEFAULT_PORT
    )


async def addresses_of(options: Mapping[str, Any]) -> list[Address]:
    """List where to try, in order: every address of every host. Raises `TransientError` if none resolves.

    libpq would do the same by itself, blocking the loop for the names and changing the socket
    between two addresses, which aiopg does not survive.
    """
    hosts = str(options.get("host") or "localhost").split(",")
    ports = str(options.get("port") or _DEFAULT_PORT).split(",")
    if options.get("hostaddr"):
        given = str(options["hostaddr"]).split(",")
        names = hosts if len(hosts) == len(given) else [""] * len(given)
        return [
            Address({"host": name, "hostaddr": address, "port": _nth(ports, index)})
            for index, (name, address) in enumerate(zip(names, given, strict=True))
        ]
    found: list[Address] = []
    failure = ""
    loop = asyncio.get_running_loop()
    for index, host in enumerate(hosts):
        port = _nth(ports, index)
        if host.startswith(("/", "@")):  # a folder with a Unix socket
            found.append(Address({"host": host, "port": port}))
            continue
        try:
            answers = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            failure = f"cannot resolve {host}: {error.strerror or error}"
            continue
        seen = dict.fromkeys(str(answer[4][0]) for answer in answers)
        found.extend(Address({"host": host, "hostaddr": address, "port": port}) for address in seen)
    if not found:
        raise TransientError(
            f"{describe(options)}: {failure}", reason="database_unavailable", remedy=UNREACHABLE
        )
    return found


def _nth(ports: list[str], index: int) -> str:
    return (ports[index] if index < len(ports) else ports[0]) or _DEFAULT_PORT
