"""What a call can raise instead of an answer."""

from __future__ import annotations


class HttpFault(Exception):
    """A call that got no answer."""


class NameFailed(HttpFault):
    """The host's name gave no address that may be called; `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


class ConnectFailed(HttpFault):
    """No connection; `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


class NoRoom(HttpFault):
    """As many calls as there may be are under way to others."""


class TlsFailed(HttpFault):
    """No TLS on the connection; `error` is an `ssl.SSLError`, or a `CertificateError`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Disconnected(HttpFault):
    """The connection ended before an answer."""


class NotHttp(HttpFault):
    """What came is no answer in HTTP/1."""
