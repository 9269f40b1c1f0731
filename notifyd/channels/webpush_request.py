"""What goes out to one browser: encrypted (RFC 8291), signed (RFC 8292) and addressed (RFC 8030). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from typing import Final

import msgspec
from py_vapid import Vapid02
from pywebpush import WebPusher, WebPushException
from yarl import URL

from notifyd.channels.http_message import Request
from notifyd.channels.port import Delivery
from notifyd.delivery.contact import PushSubscription
from notifyd.delivery.outcome import Dead
from notifyd.errors import ConfigError
from notifyd.message.envelope import Message, public_envelope

#: Push services must take 4096 bytes (RFC 8030, 7.2): less the header of 86, a tag of 16 and a delimiter.
MAX_PLAIN_BYTES: Final = 4096 - 86 - 16 - 1
#: What push services keep a message at the most: four weeks.
MAX_TTL_S: Final = 28 * 24 * 3600
#: A signature holds for this long (24 h at most), and is used for half of it.
_VAPID_S: Final = 12 * 3600
_ORIGINS: Final = 100
_SUBJECT = re.compile(r"(mailto:[^@\s]+@[^@\s]+|https://\S+)")
_P256_ORDER: Final = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)


class Vapid:
    """Signs for us as the sender that subscriptions were made for (RFC 8292).

    `key` is the private key, 32 bytes in base64url as `notifyd webpush keys` prints it; `subject` how a push
    service reaches us, `mailto:` or `https:`. Raises `ConfigError`, which never shows the key.
    """

    def __init__(self, key: str, subject: str | None) -> None:
        raw = _bytes_of(key)
        if len(raw) != 32 or not 0 < int.from_bytes(raw, "big") < _P256_ORDER:
            raise ConfigError(
                "NOTIFYD_WEBPUSH_KEY is no VAPID private key",
                reason="bad_setting",
                remedy="make one with `notifyd webpush keys`",
            )
        if subject is None or _SUBJECT.fullmatch(subject) is None:
            raise ConfigError(
                "NOTIFYD_WEBPUSH_SUBJECT does not say how a push service reaches you",
                reason="bad_setting",
                remedy="write mailto:ops@example.org or https://example.org/contact",
            )
        self._key = Vapid02.from_raw(key.encode())
        self._subject = subject
        self._signed: dict[str, tuple[float, str]] = {}

    def sign(self, origin: str, now_s: float) -> str:
        """Return `Authorization` for a push service; `now_s` Unix time in seconds."""
        renew_at, value = self._signed.get(origin, (0.0, ""))
        if now_s >= renew_at:
            claims = {"aud": origin, "exp": int(now_s) + _VAPID_S, "sub": self._subject}
            value = self._key.sign(claims)["Authorization"]
            if len(self._signed) >= _ORIGINS:
                self._signed.clear()
            self._signed[origin] = (now_s + _VAPID_S / 2, value)
        return value


def make_push(
    url: URL,
    subscription: PushSubscription,
    delivery: Delivery,
    plain: bytes,
    vapid: Vapid,
    *,
    now_s: float,
) -> Request | Dead:
    """Encrypt and sign `plain` for `url`, that of `subscription`.

    `Dead` (`bad_subscription`) where it cannot go.
    """
    keys = {"p256dh": subscription.keys.p256dh, "auth": subscription.keys.auth}
    if (len(_bytes_of(keys["p256dh"])), len(_bytes_of(keys["auth"]))) != (65, 16):
        return Dead("bad_subscription", "the subscription's keys are not 65 and 16 bytes in base64url")
    try:
        body = WebPusher({"endpoint": subscription.endpoint, "keys": keys}).encode(plain)["body"]
    except (ValueError, TypeError, IndexError, WebPushException):
        return Dead("bad_subscription", "the subscription's p256dh is no point of P-256")
    content = delivery.message.content
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Encoding": "aes128gcm",
        "Authorization": vapid.sign(str(url.origin()), now_s),
        "TTL": str(_ttl_s(delivery.message, now_s)),
        "Urgency": "high" if content.critical else "normal",
    }
    if content.collapse_key is not None:
        headers["Topic"] = _topic(delivery.message.sender, content.collapse_key)
    return Request(url, headers, body)


def make_plain(message: Message) -> bytes:
    """Return what a service worker gets, `{"message": {...}}`, in no more than `MAX_PLAIN_BYTES`.

    The public envelope where that fits. Else `content` has only what is shown, its body cut, with
    `"truncated": true` beside `message`: the whole is in the inbox.
    """
    whole = b'{"message":' + public_envelope(message) + b"}"
    if len(whole) <= MAX_PLAIN_BYTES:
        return whole
    content = message.content
    body, title = content.body, content.title
    while True:
        shown = {"version": float(content.version), "type": content.type, "title": title, "body": body}
        if content.url is not None and len(content.url) <= 1000:
            shown["url"] = content.url
        envelope = {"UUID": message.id, "from": message.sender, "content": shown}
        plain = msgspec.json.encode({"message": envelope, "truncated": True})
        over = len(plain) - MAX_PLAIN_BYTES
        if over <= 0:
            return plain
        # A character is 6 bytes at the most, as an escape: so each round cuts enough or a sixth of it.
        if body:
            body = body[: max(0, len(body) - math.ceil(over / 6))]
        else:
            title = title[: max(0, len(title) - math.ceil(over / 6))]


def new_keys() -> tuple[str, str]:
    """Make a VAPID key pair: (private, public) in base64url; the second is `applicationServerKey`."""
    vapid = Vapid02()
    vapid.generate_keys()
    numbers = vapid.private_key.private_numbers()
    point = numbers.public_numbers
    public = b"\x04" + point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
    return _base64url(numbers.private_value.to_bytes(32, "big")), _base64url(public)


def _ttl_s(message: Message, now_s: float) -> int:
    expires_at_ms = message.content.expires_at_ms(message.timestamp_ms)
    left_s = MAX_TTL_S if expires_at_ms is None else math.ceil(expires_at_ms / 1000 - now_s)
    return max(0, min(MAX_TTL_S, left_s))


def _topic(sender: str, collapse_key: str) -> str:
    """Name what replaces one another at a push service: 32 characters at most, base64url (RFC 8030, 5.4)."""
    return _base64url(hashlib.blake2s(f"{sender}\0{collapse_key}".encode(), digest_size=24).digest())


def _bytes_of(text: str) -> bytes:
    """Decode base64url, padded or not; nothing where it is something else."""
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
