"""One POST and its answer: what a caller sees of them, and a request as it goes out. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from yarl import URL

from notifyd.version import VERSION


class Request(msgspec.Struct, frozen=True):
    """One POST. Its repr shows nothing: URLs and signatures are not for logs."""

    url: URL
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return "Request()"


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What came back: the status, and `Retry-After` as it stood there, unless it is a success."""

    status: int
    retry_after: str | None = None


class Target(msgspec.Struct, frozen=True):
    """What all calls of one URL share. `key` is the place that connections lead to."""

    key: tuple[bool, str, int]
    head: str


@lru_cache(maxsize=4096)
def target_of(url: URL) -> Target:
    """Work out once what all calls of `url` share."""
    host, port = url.raw_host, url.port
    assert host
    assert port
    head = (
        f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
        f"User-Agent: notifyd/{VERSION}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
    )
    return Target((url.scheme == "https", host, port), head)


def encode(target: Target, request: Request, *, keep: bool) -> bytes:
    """Encode a request; raises `ValueError` for a header that would end before its line does."""
    headers = request.headers
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header has a line break or a NUL in it")
    end = "\r\n" if keep else "Connection: close\r\n\r\n"
    return f"{target.head}{lines}Content-Length: {len(request.body)}\r\n{end}".encode("ascii") + request.body
