"""Tickets: what an `EventSource`, which can send no header, opens one stream with.

A ticket is a signed value that any process can check, for no role calls another. That it serves once is
remembered by the process that took it, until it expires: see `docs/reference/push-protocol.md` for what
this holds against and what it does not.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import jwt

from notifyd.errors import PermanentError, TransientError
from notifyd.push.auth import Identity, PermissionDenied
from notifyd.settings import Settings

#: How long a ticket waits to be used: a page asks for it and opens its stream at once.
TTL_S: Final = 30.0
#: Used tickets that are remembered; more would take this process 3,000 new streams a second.
MAX_USED: Final = 100_000
_MAX_CHARS: Final = 4096
_ALGORITHM: Final = "HS256"
#: Sets the key of tickets apart from that of tokens, where one is made of the other: neither passes for
#: the other.
_PURPOSE: Final = b"notifyd push ticket"


class NoTickets(PermanentError):
    """This process has no key to sign tickets with."""

    reason = "no_tickets"


class Tickets:
    """Makes and takes tickets. `now` is the time in seconds since 1970."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        secret = settings.ws_ticket_secret or settings.jwt_secret
        self._key: bytes | None = None
        if secret is not None:
            self._key = hmac.digest(secret.get_secret_value().encode(), _PURPOSE, hashlib.sha256)
        self._now = now
        self._used: OrderedDict[str, float] = OrderedDict()

    def make(self, identity: Identity) -> str:
        """Return a ticket for one stream of this user; the stream ends with the user's token."""
        claims = {
            "sub": identity.user,
            "exp": self._now() + TTL_S,
            "jti": secrets.token_urlsafe(12),
            "begin": identity.issued_at_s,
            "end": identity.expires_at_s,
        }
        return jwt.encode(claims, self._need_key(), algorithm=_ALGORITHM)

    def take(self, ticket: str) -> Identity:
        """Use a ticket up and return whose it was.

        Raises `PermissionDenied`, `NoTickets`, or `TransientError` when it can remember no more.
        """
        key = self._need_key()
        if len(ticket) > _MAX_CHARS:
            raise PermissionDenied("the ticket is not valid", reason="bad_ticket")
        try:
            # The time is judged by our own clock below.
            claims = jwt.decode(ticket, key, algorithms=[_ALGORITHM], options={"verify_exp": False})
            user, ends_at, number = str(claims["sub"]), float(claims["exp"]), str(claims["jti"])
            begun_at, over_at = float(claims.get("begin", 0.0)), float(claims["end"])
            identity = Identity(user, frozenset(), over_at, begun_at)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OverflowError, RecursionError):
            # The library's text is left out: nothing of a ticket may reach a log.
            raise PermissionDenied("the ticket is not valid", reason="bad_ticket") from None
        now_s = self._now()
        if not (ends_at > now_s and identity.expires_at_s > now_s):
            raise PermissionDenied("the ticket has expired", reason="bad_ticket")
        self._forget(now_s)
        if number in self._used:
            raise PermissionDenied("the ticket was used before", reason="bad_ticket")
        if len(self._used) >= MAX_USED:
            raise TransientError("too many tickets were used lately", reason="too_many_tickets")
        self._used[number] = now_s + TTL_S
        return identity

    def _need_key(self) -> bytes:
        if self._key is None:
            raise NoTickets("tickets need NOTIFYD_WS_TICKET_SECRET, the same for every ws process")
        return self._key

    def _forget(self, now_s: float) -> None:
        """Forget what has expired: in order of use, and no ticket lives for longer than `TTL_S`."""
        while self._used and next(iter(self._used.values())) <= now_s:
            self._used.popitem(last=False)
