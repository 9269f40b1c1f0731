"""E-mail, by way of one relay: a mail of its own to each address of a user."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiosmtplib

from notifyd.channels.email_answers import Step, outcome_of_error, outcome_of_reply
from notifyd.channels.email_message import Layout, Mail, Unsubscribe, Writer, parse_address
from notifyd.channels.gate import Closed, Gate
from notifyd.channels.outcomes import combine
from notifyd.channels.port import Delivery
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.errors import ConfigError, PermanentError
from notifyd.metrics import Metrics
from notifyd.settings import Settings

#: A connection that was idle for longer is not used again: relays close theirs.
_IDLE_S: Final = 20.0
#: Mails over one connection: relays end it after some number, often 100.
_MAILS: Final = 50
_QUIT_S: Final = 1.0
#: Schemes of NOTIFYD_SMTP_URL: whether TLS comes first, and whether it has to be begun.
_SCHEMES: Final = {"smtps": (True, False, 465), "smtp": (False, True, 587), "smtp+plain": (False, False, 25)}


_CLOSED: Final = {
    "host_busy": "the relay has all its connections in use",
    "host_down": "the relay failed the last mails",
}
#: What says that it is the relay, not the mail.
_RELAY_FAILED: Final = frozenset(
    {
        "timeout",
        "connect_failed",
        "connection_lost",
        "dns_failed",
        "tls_failed",
        "smtp_sign_in",
        "smtp_unsupported",
    }
)


@dataclass(frozen=True, slots=True)
class Relay:
    """Where mails go. `tls_first` from the first byte, `start_tls` by STARTTLS, which must succeed then."""

    host: str
    port: int
    tls_first: bool
    start_tls: bool
    username: str | None
    password: str | None

    @classmethod
    def of(cls, url: str) -> Relay:
        """Read an URL: `smtp://user:password@host:587`, `smtps://`, or `smtp+plain://` without TLS.

        Raises `ConfigError`, which never shows the URL.
        """
        try:
            parts = urlsplit(url)
            tls_first, start_tls, port = _SCHEMES[parts.scheme]
            host, port = parts.hostname, parts.port or port
        except (KeyError, ValueError):
            host = None
        if not host:
            raise ConfigError(
                "NOTIFYD_SMTP_URL is no URL of a relay",
                reason="bad_setting",
                remedy="smtp://user:password@host:587 (with STARTTLS), smtps://... or smtp+plain://host:25",
            )
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        return cls(host, port, tls_first, start_tls, username, password)


@dataclass(slots=True)
class _Link:
    """A connection that is signed in. `step` is how far the mail at hand has come."""

    client: aiosmtplib.SMTP
    step: Step = "greeting"
    mails: int = 0
    idle_since: float = 0.0


class EmailChannel:
    """The channel `email`.

    A send ends within `email_timeout_s` for each address and the wait for a connection (1 s at most).
    A relay that took a mail and did not live to say so gets it again with the same `Message-ID`.
    `ssl_context` and `clock` (seconds that only grow) are ports for tests.
    """

    name = "email"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.smtp_url is None:
            raise ConfigError("NOTIFYD_SMTP_URL is not set", reason="bad_setting")
        self._relay = Relay.of(settings.smtp_url.get_secret_value())
        self._writer = _writer(settings)
        self._timeout_s = settings.email_timeout_s
        self._ssl_context = ssl_context
        self._clock = clock
        self._gate = Gate(
            settings.email_connections, warm_s=_IDLE_S, clock=clock, down=metrics.hosts_down.labels(self.name)
        )
        self._idle: deque[_Link] = deque()
        self._is_started = False

    async def start(self) -> None:
        """Take mails from now on; connections are made as they are needed."""
        self._is_started = True

    async def stop(self) -> None:
        """Take leave of the relay."""
        self._is_started = False
        links = list(self._idle)
        self._idle.clear()
        await asyncio.gather(*(_quit(link) for link in links))

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Send a mail to every address of `contact`, one after another; a repeated one only once."""
        if not self._is_started:
            raise PermanentError("the e-mail channel is not started", reason="not_started")
        if not contact.email:
            return Skip("no_address")
        outcomes: dict[int, Outcome] = {}
        place = await self._gate.enter(self._relay.host)
        if isinstance(place, Closed):
            return Retry(place.reason, after_s=place.after_s, detail=_CLOSED[place.reason], counts=False)
        has_failed: bool | None = None
        try:
            for index, text in enumerate(contact.email):
                if text in contact.email[:index]:
                    continue
                address = parse_address(text)
                if address is None:
                    outcomes[index] = Dead("bad_address", "the address is not valid")
                    continue
                mail = self._writer.write(delivery.message, delivery.user, address)
                outcome = outcomes[index] = await self._send(mail)
                has_failed = isinstance(outcome, Retry) and outcome.reason in _RELAY_FAILED
        finally:
            self._gate.leave(place, has_failed=has_failed)
        return combine(self.name, outcomes)

    async def _send(self, mail: Mail) -> Outcome:
        """Send over a kept connection, or a new one; one that was closed meanwhile is no failure."""
        while (link := self._take()) is not None:
            try:
                return await self._transact(link, mail)
            except _Stale:
                continue
        link = _Link(self._new_client())
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connect(link.client)
        except Exception as error:
            link.client.close()
            return outcome_of_error("greeting", error, timeout_s=self._timeout_s)
        except BaseException:
            link.client.close()
            raise
        return await self._transact(link, mail)

    async def _transact(self, link: _Link, mail: Mail) -> Outcome:
        """Send one mail; the link is kept where both sides agree on what comes next."""
        client, is_kept = link.client, False
        try:
            async with asyncio.timeout(self._timeout_s):
                link.step = "MAIL"
                if mail.is_utf8 and not client.supports_extension("smtputf8"):
                    raise aiosmtplib.SMTPNotSupported("SMTPUTF8")
                encoding = "utf-8" if mail.is_utf8 else "ascii"
                options = ["SMTPUTF8", "BODY=8BITMIME"] if mail.is_utf8 else []
                if client.supports_extension("size"):
                    options.append(f"SIZE={len(mail.wire)}")
                await client.mail(mail.sender, options=options, encoding=encoding)
                link.step = "RCPT"
                await client.rcpt(mail.recipient, encoding=encoding)
                link.step = "DATA"
                await client.data(mail.wire)
                link.mails += 1
                is_kept = True
                return Done("SMTP 250")
        except aiosmtplib.SMTPServerDisconnected:
            if link.mails and link.step == "MAIL":
                raise _Stale from None
            return Retry("connection_lost", detail=f"the connection ended at {link.step}")
        except aiosmtplib.SMTPResponseException as error:
            outcome = outcome_of_reply(link.step, error.code, error.message)
            is_kept = error.code != 421 and await self._reset(link)
            return outcome
        except aiosmtplib.SMTPNotSupported as error:
            is_kept = True
            return outcome_of_error(link.step, error, timeout_s=self._timeout_s)
        except Exception as error:
            return outcome_of_error(link.step, error, timeout_s=self._timeout_s)
        finally:
            if is_kept and self._is_started and link.mails < _MAILS:
                link.idle_since = self._clock()
                self._idle.append(link)
            else:
                client.close()

    async def _reset(self, link: _Link) -> bool:
        """Drop the mail that was refused; False where the relay has nothing more to say."""
        try:
            async with asyncio.timeout(_QUIT_S):
                await link.client.rset()
        except (aiosmtplib.SMTPException, OSError):
            return False
        link.mails += 1
        return True

    def _take(self) -> _Link | None:
        """Take the connection that was used last; those idle for too long are closed."""
        now = self._clock()
        while self._idle and now - self._idle[0].idle_since > _IDLE_S:
            self._idle.popleft().client.close()
        return self._idle.pop() if self._idle else None

    async def _connect(self, client: aiosmtplib.SMTP) -> None:
        """Connect and sign in; nothing is said in clear that was to be said over TLS."""
        relay = self._relay
        await client.connect()
        await client.ehlo()
        if relay.start_tls:
            if not client.supports_extension("starttls"):
                raise aiosmtplib.SMTPNotSupported("STARTTLS")
            await client.starttls()
            await client.ehlo()
        if relay.username is not None:
            if not client.supports_extension("auth"):
                raise aiosmtplib.SMTPNotSupported("AUTH")
            await client.login(relay.username, relay.password or "")

    def _new_client(self) -> aiosmtplib.SMTP:
        relay = self._relay
        return aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            use_tls=relay.tls_first,
            start_tls=False,  # `_connect` does
            tls_context=self._ssl_context,
            # Its default asks the resolver, and blocks the loop for as long as that takes.
            local_hostname=socket.gethostname(),
            timeout=self._timeout_s,
        )


class _Stale(Exception):
    """The relay closed a kept connection before it heard of this mail."""


def _writer(settings: Settings) -> Writer:
    name, _, spec = (settings.email_from or "").rpartition("<")
    sender = parse_address(spec.rstrip("> "))
    if sender is None:
        raise ConfigError(
            "NOTIFYD_EMAIL_FROM is not the address of a sender",
            reason="bad_setting",
            remedy="e.g. no-reply@example.org, or Example <no-reply@example.org>",
        )
    return Writer(
        type(sender)(name.strip(' "'), sender.username, sender.domain),
        _layout(settings.email_layout),
        _unsubscribe(settings),
    )


def _layout(path: Path | None) -> Layout:
    if path is None:
        return Layout()
    try:
        return Layout(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"NOTIFYD_EMAIL_LAYOUT cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}",
            reason="bad_setting",
            remedy="name a file of HTML in UTF-8",
        ) from None


def _unsubscribe(settings: Settings) -> Unsubscribe | None:
    if settings.email_unsubscribe is None:
        return None
    secret = settings.email_unsubscribe_secret
    return Unsubscribe(settings.email_unsubscribe, secret.get_secret_value() if secret is not None else None)


async def _quit(link: _Link) -> None:
    try:
        async with asyncio.timeout(_QUIT_S):
            await link.client.quit()
    except (aiosmtplib.SMTPException, OSError):
        pass
    finally:
        link.client.close()
