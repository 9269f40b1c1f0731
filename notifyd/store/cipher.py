"""What messages say, at rest: sealed with the first of some keys, opened with the one that it names.

The one seam between the bytes of a message and the column `message.raw`. Without keys both are the same.
A sealed message is, byte for byte: 1, the length of the key's id, that id, a random nonce of 12 bytes, and
the AES-256-GCM ciphertext with its tag of 16 bytes (NIST SP 800-38D); the message's id is authenticated
with it, so that no row's content can be put in another's place. No JSON begins with the byte 1, so what was
stored before there were keys is told apart and stays readable.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notifyd.content_keys import parse_content_keys
from notifyd.errors import TransientError
from notifyd.settings import Settings

_SEALED: Final = 1
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class ContentKeyError(TransientError):
    """A stored message cannot be opened with the keys of this process; with the right one it can.

    `key_id` is the key that the message names. `reason`: `content_key_missing`, or `content_key_wrong`,
    where this process has another key of that id, or the bytes were changed.
    """

    def __init__(self, message: str, *, key_id: str, reason: str, remedy: str) -> None:
        super().__init__(message, reason=reason, remedy=remedy)
        self.key_id = key_id


class ContentCipher:
    """Seals and opens with `keys` (id -> 32 bytes); the first one seals. Without any nothing is sealed."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        #: The key that seals; None: nothing is sealed.
        self.current: str | None = next(iter(keys), None)
        #: What a message sealed with that key begins with.
        self.prefix = b"" if self.current is None else _prefix(self.current)

    @classmethod
    def of(cls, settings: Settings) -> ContentCipher:
        """Take the keys of NOTIFYD_CONTENT_KEYS."""
        if settings.content_keys is None:
            return cls({})
        return cls(parse_content_keys(settings.content_keys.get_secret_value()))

    def seal(self, message_id: str, raw: bytes) -> bytes:
        """Return `raw` as it is stored for this message."""
        if self.current is None:
            return raw
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self.current].encrypt(nonce, raw, _context(message_id, self.prefix))
        return self.prefix + nonce + sealed

    def open(self, message_id: str, stored: bytes) -> bytes:
        """Return what was sealed for this message; what never was comes back as it is.

        Raises `ContentKeyError` that names the key.
        """
        key_id = key_of(stored)
        if key_id is None:
            return stored
        key = self._keys.get(key_id)
        if key is None:
            held = ", ".join(self._keys) or "none"
            raise ContentKeyError(
                f"message {message_id} is encrypted with the key {key_id!r}, which this process lacks "
                f"(it has {held})",
                key_id=key_id,
                reason="content_key_missing",
                remedy=f"add {key_id}:... to NOTIFYD_CONTENT_KEYS, after the key that writes",
            )
        prefix = _prefix(key_id)
        nonce, sealed = stored[len(prefix) :][:_NONCE_BYTES], stored[len(prefix) + _NONCE_BYTES :]
        try:
            if len(sealed) < _TAG_BYTES:
                raise InvalidTag
            return key.decrypt(nonce, sealed, _context(message_id, prefix))
        except InvalidTag:
            raise ContentKeyError(
                f"message {message_id} cannot be opened with the key {key_id!r}: it is another key of that "
                "id, or the stored bytes were changed",
                key_id=key_id,
                reason="content_key_wrong",
                remedy=f"put the key {key_id!r} that wrote it into NOTIFYD_CONTENT_KEYS",
            ) from None


#: Where there are no keys.
NOT_ENCRYPTED: Final = ContentCipher({})


def key_of(stored: bytes) -> str | None:
    """Name the key that stored bytes were sealed with; None where they are not sealed."""
    if stored[:1] != bytes([_SEALED]) or len(stored) < 2:
        return None
    return stored[2 : 2 + stored[1]].decode("ascii", errors="backslashreplace")


def _prefix(key_id: str) -> bytes:
    return bytes([_SEALED, len(key_id)]) + key_id.encode("ascii")


def _context(message_id: str, prefix: bytes) -> bytes:
    return prefix + uuid.UUID(message_id).bytes
