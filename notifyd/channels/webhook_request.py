"""What goes out to one URL: checked address, id, signature. Pure.

Signed after Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks, spec):
`v1,` and the base64 HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook
from yarl import URL

from notifyd.channels.port import Delivery
from notifyd.delivery.contact import WebhookAddress
from notifyd.delivery.outcome import Dead

_SECRET_PREFIX: Final = "whsec_"
_WELL_KNOWN_PORTS: Final = range(1024)
_WEB_PORTS: Final = frozenset({80, 443})
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True, slots=True)
class Request:
    """One POST. Its repr shows nothing: URLs and signatures are not for logs."""

    url: URL = field(repr=False)
    host: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)


def make_request(
    address: WebhookAddress, delivery: Delivery, body: bytes, *, now_s: float, allow_private: bool
) -> Request | Dead:
    """Address, number and sign `body`.

    `Dead` (`bad_url`, `https_required`, `bad_secret`, `bad_content`) where it cannot go.
    """
    url = parse_url(address.url, allow_private=allow_private)
    if isinstance(url, Dead):
        return url
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return Dead("bad_content", "the message is not UTF-8")
    message_id = webhook_id(delivery.message.id, delivery.user, delivery.channel, address.url)
    signatures = []
    for secret in address.secrets:
        key = parse_secret(secret)
        if key is None:
            return Dead("bad_secret", "the secret is not base64, with or without `whsec_` before it")
        at = datetime.fromtimestamp(int(now_s), UTC)
        signatures.append(Webhook(key).sign(message_id, at, text))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now_s)),
    }
    if signatures:
        headers["webhook-signature"] = " ".join(signatures)
    return Request(url, (url.raw_host or "").rstrip("."), headers)


def webhook_id(message_id: str, user: str, channel: str, url: str) -> str:
    """Name what one URL gets: the same however often it is sent, so that receivers can tell repeats.

    The Global_ID, then 64 bits of a hash; no dot, which the signed text uses to divide.
    """
    digest = hashlib.sha256("\0".join((user, channel, url)).encode()).hexdigest()
    return f"{message_id}_{digest[:16]}"


def parse_secret(secret: str) -> bytes | None:
    """Decode a signing secret; None where it is not one.

    Stricter than the library, which skips what is no base64 and so would sign with another key
    than the owner of the secret expects.
    """
    text = secret.removeprefix(_SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
    return key or None


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
