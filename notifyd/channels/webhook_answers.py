"""What an HTTP answer, or the lack of one, means to a delivery. Pure.

No detail names a host, a path or what the other side wrote: all of that comes from a contact, and
details are shown in traces.
"""

from __future__ import annotations

import email.utils
import errno
import os
import re
import ssl
from functools import lru_cache
from typing import Final

from notifyd.channels.addresses import AddressRefused
from notifyd.channels.http_faults import ConnectFailed, Disconnected, NameFailed, NoRoom, NotHttp, TlsFailed
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry

#: Client errors that may pass: request timeout, too early, too many requests.
_RETRIED_4XX: Final = frozenset({408, 425, 429})

#: Our own host's limits, not the other side's fault.
_OWN_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def outcome_of_status(status: int, retry_after: str | None, *, now_s: float) -> Outcome:
    """Map an answer's status; `retry_after` is its header, `now_s` Unix time in seconds."""
    if status // 100 == 2:
        return _done(status)
    detail = f"HTTP {status}"
    match status // 100:
        case 3:
            return Dead("redirected", f"{detail}: redirects are not followed")
        case 4 if status == 410:
            return Dead("gone", detail)
        case 4 if status not in _RETRIED_4XX:
            return Dead(f"http_{status}", detail)
        case 4 | 5:
            return Retry(f"http_{status}", after_s=parse_retry_after(retry_after, now_s=now_s), detail=detail)
    return Dead("bad_response", f"{detail} is no answer")


@lru_cache(maxsize=100)
def _done(status: int) -> Done:
    return Done(f"HTTP {status}")


def parse_retry_after(value: str | None, *, now_s: float) -> float | None:
    """Read a `Retry-After` in either form of RFC 9110, 10.2.3; None: absent, wrong, or no wait."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,12}", value):
        after_s = float(value)
    else:
        try:
            after_s = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return after_s if after_s > 0 else None


def outcome_of_error(error: Exception, *, timeout_s: float) -> Retry | Dead:
    """Map what a call raised instead of an answer; raises `error` again where it is ours."""
    outcome: Retry | Dead
    match error:
        case TimeoutError():
            outcome = Retry("timeout", detail=f"no answer within {timeout_s:g} s")
        case NameFailed(error=AddressRefused()) | ConnectFailed(error=AddressRefused()):
            outcome = Dead("address_refused", "the host is at no public address")
        case NameFailed():
            outcome = Retry("dns_failed", detail="the host's name was not resolved")
        # Certificates get renewed and chains mended: what fails here is worth trying again.
        case TlsFailed(error=ssl.CertificateError() as fault):
            outcome = Retry("tls_failed", detail=_certificate_fault(fault))
        case TlsFailed():
            outcome = Retry("tls_failed", detail="no TLS connection")
        case NoRoom():
            outcome = Retry("no_sockets", detail="too many calls are under way to others", counts=False)
        case ConnectFailed() if error.error.errno in _OWN_ERRNOS:
            outcome = Retry("no_sockets", detail=_name(error.error), counts=False)
        case ConnectFailed():
            outcome = Retry("connect_failed", detail=_name(error.error))
        case NotHttp():
            outcome = Retry("bad_response", detail="the answer is not HTTP")
        case Disconnected() | OSError():
            outcome = Retry("connection_lost", detail="the connection ended before an answer")
        case _:
            raise error
    return outcome


def _certificate_fault(error: Exception) -> str:
    # Up to the comma: what follows it names the host.
    text = error.verify_message.partition(",")[0] if isinstance(error, ssl.SSLCertVerificationError) else ""
    return f"certificate: {text or 'refused'}"


def _name(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "no connection"
