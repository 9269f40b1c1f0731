"""What an SMTP reply, or the lack of one, means to a delivery. Pure.

No detail has the text of a reply: it may name the address, and details are shown in traces.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import Final, Literal

import aiosmtplib

from notifyd.delivery.outcome import Dead, Outcome, Retry

#: Up to where a mail had come: at the greeting (with TLS and sign-in), or the command of the same name.
Step = Literal["greeting", "MAIL", "RCPT", "DATA"]

_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")
#: The mailbox is not there, has moved, or is switched off (RFC 3463).
_GONE: Final = frozenset({"5.1.1", "5.1.6", "5.1.10", "5.2.1"})
#: The mailbox or the relay is full.
_FULL: Final = frozenset({"5.2.2", "5.3.1"})


def outcome_of_reply(step: Step, code: int, text: str) -> Retry | Dead:
    """Map a reply that refuses; `text` as it came, with an enhanced status code (RFC 2034) or without."""
    found = _ENHANCED.match(text)
    enhanced = found[1] if found is not None else ""
    detail = f"SMTP {code} {enhanced}".rstrip() + f" at {step}"
    if step == "greeting":
        # Between the relay and us: no mail is to blame, and none is to die of it.
        reason = "smtp_sign_in" if code in (530, 534, 535, 538) else f"smtp_{code}"
        return Retry(reason, detail=detail, counts=False)
    # 552 to RCPT means what 452 does (RFC 5321, 4.5.3.1.10).
    if code // 100 != 5 or enhanced in _FULL or (step == "RCPT" and code == 552):
        return Retry(f"smtp_{code}", detail=detail)
    if step == "RCPT" and enhanced in _GONE:
        return Dead("gone", detail)
    return Dead(f"smtp_{code}", detail)


def outcome_of_error(step: Step, error: Exception, *, timeout_s: float) -> Outcome:
    """Map what a step raised instead of a reply; raises `error` again where it is ours."""
    match error:
        case aiosmtplib.SMTPResponseException():
            return outcome_of_reply(step, error.code, error.message)
        case TimeoutError():
            return Retry("timeout", detail=f"no reply to {step} within {timeout_s:g} s")
        case aiosmtplib.SMTPNotSupported() if step == "greeting":
            detail = "the relay offers no STARTTLS, or no way to sign in"
            return Retry("smtp_unsupported", detail=detail, counts=False)
        case aiosmtplib.SMTPNotSupported():
            return Dead("smtp_unsupported", "the relay takes no address in UTF-8 (SMTPUTF8)")
        case aiosmtplib.SMTPException() | OSError():
            return _of_connection(step, error.__cause__ if isinstance(error.__cause__, OSError) else error)
        case _:
            raise error


def _of_connection(step: Step, error: Exception) -> Retry:
    match error:
        case ssl.SSLCertVerificationError():
            fault = error.verify_message.partition(",")[0]
            return Retry("tls_failed", detail=f"certificate: {fault or 'refused'}", counts=False)
        case ssl.SSLError():
            return Retry("tls_failed", detail="no TLS connection", counts=False)
        case socket.gaierror():
            return Retry("dns_failed", detail="the relay's name was not resolved")
        case OSError() if step == "greeting" and not isinstance(error, aiosmtplib.SMTPServerDisconnected):
            name = os.strerror(error.errno) if error.errno else "no connection"
            return Retry("connect_failed", detail=name)
    return Retry("connection_lost", detail=f"the connection ended at {step}")
