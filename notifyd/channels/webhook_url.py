"""Which URLs may be called, and the host by which their calls are counted. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from yarl import URL

from notifyd.delivery.outcome import Dead

_WELL_KNOWN_PORTS: Final = range(1024)
_WEB_PORTS: Final = frozenset({80, 443})
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


@lru_cache(maxsize=4096)
def parse_url(text: str, *, allow_private: bool) -> URL | Dead:
    """Check the form of a webhook's URL; where its host leads is judged when connecting.

    With `allow_private` plain http and any port will do.
    """
    try:
        if _NOT_IN_URL.search(text):
            raise ValueError
        url = URL(text)
        port = url.port
    except (ValueError, IndexError):  # yarl 1.25 lets an IndexError out of `https://a[b]c@`
        return Dead("bad_url", "the URL is not valid")
    if url.scheme == "http" and not allow_private:
        return Dead("https_required", "the URL is not https")
    if url.scheme not in ("http", "https") or not url.raw_host:
        return Dead("bad_url", "the URL is not https with a host")
    if url.user is not None or url.password is not None:
        return Dead("bad_url", "the URL carries a user or a password")
    if not port or (port in _WELL_KNOWN_PORTS and port not in _WEB_PORTS and not allow_private):
        return Dead("bad_url", "the port is another service's")
    return url


def host_of(url: URL) -> str:
    """Return the host by which calls are counted."""
    return (url.raw_host or "").rstrip(".")
