"""The keys that content is encrypted with at rest, as the setting writes them."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Final

#: AES-256.
KEY_BYTES: Final = 32
_KEY_ID: Final = re.compile(r"[a-z0-9._-]{1,32}")


def parse_content_keys(text: str) -> dict[str, bytes]:
    """Read `id:base64,id:base64`, the one that writes first; raises `ValueError` that never holds a key."""
    keys: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        key_id, colon, encoded = part.partition(":")
        if not colon or not _KEY_ID.fullmatch(key_id):
            raise ValueError(
                f"entry {number} is not id:key; an id has 1 to 32 of a-z, 0-9, '.', '_' and '-', "
                "and `notifyd keys new` makes both"
            )
        if key_id in keys:
            raise ValueError(f"the id {key_id!r} is there twice")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"the key {key_id!r} is not {KEY_BYTES} bytes in base64; `notifyd keys new` makes one"
            )
        keys[key_id] = key
    if not keys:
        raise ValueError("holds no key; leave it out to store messages as they are")
    return keys


def new_content_key(key_id: str) -> str:
    """Make an entry of the setting with a random key; raises `ValueError` where the id is none."""
    entry = f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"
    parse_content_keys(entry)
    return entry
