"""What an e-mail looks like: one message to one address, as text and as HTML. Pure."""

from __future__ import annotations

import datetime as dt
import email.policy
import email.utils
import hashlib
import html
import string
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Final
from urllib.parse import quote, urlsplit

import jwt

from notifyd.errors import ConfigError
from notifyd.message.envelope import Message

#: Longer titles are cut: nobody reads more of a subject, and relays refuse headers without end.
_SUBJECT_CHARS: Final = 200
_DEFAULT_LAYOUT: Final = """\
<!doctype html>
<html lang="und">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>$title</title>
</head>
<body style="margin:0;padding:24px;font:16px/1.5 system-ui,sans-serif">
<div style="max-width:36em;margin:0 auto">
<h1 style="font-size:20px;margin:0 0 12px">$title</h1>
$body
$link
$unsubscribe
</div>
</body>
</html>
"""
_PLACES: Final = frozenset({"title", "body", "link", "unsubscribe"})
_UNSUBSCRIBE_AUDIENCE: Final = "notifyd-unsubscribe"


def parse_address(text: str) -> Address | None:
    """Read a bare address (`ann@example.org`), without a name or comments; None where it is none."""
    # The parser takes no UTF-8 (RFC 6532) yet: it may stand wherever a letter may.
    plain = "".join(char if char.isascii() or not char.isprintable() else "x" for char in text)
    try:
        address = Address(addr_spec=plain)
    except (ValueError, IndexError, email.errors.MessageError):
        return None
    if not address.username or not address.domain or address.addr_spec != plain:
        return None
    username, _, domain = text.rpartition("@")
    return address if text.isascii() else Address(username=username, domain=domain)


class Layout:
    """The HTML around a message: a template with `$title`, `$body`, `$link` and `$unsubscribe`.

    What fills them is escaped. Raises `ConfigError` for a template with other places, or without `$body`.
    """

    def __init__(self, template: str = _DEFAULT_LAYOUT) -> None:
        self._template = string.Template(template)
        found = set(self._template.get_identifiers())
        if not self._template.is_valid() or "body" not in found or not found <= _PLACES:
            raise ConfigError(
                "NOTIFYD_EMAIL_LAYOUT is no template that fits",
                reason="bad_setting",
                remedy="places are $title, $body (needed), $link and $unsubscribe; write a dollar as $$",
            )

    def fill(self, title: str, body: str, url: str | None, unsubscribe: str | None) -> str:
        """Return the page for these texts."""
        paragraphs = (part for part in body.replace("\r\n", "\n").split("\n\n") if part.strip())
        return self._template.substitute(
            title=html.escape(title),
            body="\n".join(f"<p>{_lines(part)}</p>" for part in paragraphs),
            link=f'<p><a href="{html.escape(url)}">{html.escape(url)}</a></p>' if url else "",
            unsubscribe=(
                f'<p style="font-size:13px"><a href="{html.escape(unsubscribe)}">Unsubscribe</a></p>'
                if unsubscribe
                else ""
            ),
        )


class Unsubscribe:
    """Makes the link by which a user ends e-mails: an https URL or mailto, with places to fill.

    `{user}`, `{type}` and `{id}` are filled percent-encoded; `{token}` with a JWT (HS256 by `secret`, `aud`
    "notifyd-unsubscribe", `sub` the user, `type` the message's), by which the page behind it knows that the
    link is ours. Raises `ConfigError` for other places, another scheme, or a token without a secret.
    """

    def __init__(self, template: str, secret: str | None) -> None:
        try:
            template.format(user="", type="", id="", token="")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise _bad_unsubscribe("has a place that is not {user}, {type}, {id} or {token}") from None
        scheme = urlsplit(template).scheme
        if scheme not in ("https", "mailto"):
            raise _bad_unsubscribe("is neither an https:// URL nor mailto:")
        if "{token}" in template and secret is None:
            raise _bad_unsubscribe("has a {token}, which takes NOTIFYD_EMAIL_UNSUBSCRIBE_SECRET")
        self._template = template
        self._secret = secret
        self.is_one_click = scheme == "https"

    def link(self, message: Message, user: str) -> str:
        """Return the link for one user and the type of this message."""
        token = ""
        if self._secret is not None:
            claims = {"aud": _UNSUBSCRIBE_AUDIENCE, "sub": user, "type": message.content.type}
            token = jwt.encode(claims, self._secret, algorithm="HS256")
        return self._template.format(
            user=quote(user, safe=""),
            type=quote(message.content.type, safe=""),
            id=message.id,
            token=token,
        )


@dataclass(frozen=True, slots=True)
class Mail:
    """What goes to the relay: envelope addresses and bytes with CRLF line ends."""

    sender: str
    recipient: str
    wire: bytes
    is_utf8: bool


class Writer:
    """Writes mails from one sender (`Name <address>`)."""

    def __init__(self, sender: Address, layout: Layout, unsubscribe: Unsubscribe | None) -> None:
        self._sender = sender
        self._layout = layout
        self._unsubscribe = unsubscribe

    def write(self, message: Message, user: str, address: Address) -> Mail:
        """Write `message` to one address of `user`. The same call gives the same `Message-ID`."""
        content = message.content
        title = _one_line(content.title or content.body or content.type)[:_SUBJECT_CHARS] or "Notification"
        url = content.url if content.url and urlsplit(content.url).scheme in ("http", "https") else None
        link = self._unsubscribe.link(message, user) if self._unsubscribe is not None else None
        is_utf8 = not address.username.isascii() or not self._sender.username.isascii()
        mail = EmailMessage(policy=email.policy.SMTPUTF8 if is_utf8 else email.policy.SMTP)
        mail["From"] = self._sender
        mail["To"] = address
        mail["Subject"] = title
        mail["Date"] = dt.datetime.fromtimestamp(message.created_at_ms / 1000, dt.UTC)
        mail["Message-ID"] = self._name(message.id, user, address)
        if content.collapse_key is not None:
            # Never the id of a mail that was sent: it only holds those with one key together.
            mail["References"] = self._name(_digest(message.sender, content.collapse_key), user, address)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes come back
        if link is not None and self._unsubscribe is not None:
            mail["List-Unsubscribe"] = f"<{link}>"
            if self._unsubscribe.is_one_click:
                mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        mail.set_content(_text(content.body or title, url, link))
        page = self._layout.fill(title, content.body or "", url, link)
        mail.add_alternative(page, subtype="html")
        return Mail(self._sender.addr_spec, address.addr_spec, mail.as_bytes(), is_utf8)

    def _name(self, what: str, user: str, address: Address) -> str:
        return f"<{what}.{_digest(user, address.addr_spec)}@{_ascii_domain(self._sender.domain)}>"


def _digest(*parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode(), digest_size=8).hexdigest()


def _text(body: str, url: str | None, unsubscribe: str | None) -> str:
    parts = [body, url, f"Unsubscribe: {unsubscribe}" if unsubscribe else None]
    return "\n\n".join(part for part in parts if part) + "\n"


def _lines(text: str) -> str:
    return "<br>\n".join(html.escape(line) for line in text.strip("\n").split("\n"))


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split())).strip()


def _ascii_domain(domain: str) -> str:
    return domain if domain.isascii() else domain.encode("idna").decode()


def _bad_unsubscribe(rule: str) -> ConfigError:
    return ConfigError(
        f"NOTIFYD_EMAIL_UNSUBSCRIBE {rule}",
        reason="bad_setting",
        remedy="e.g. https://example.org/unsubscribe?user={user}&token={token}",
    )
