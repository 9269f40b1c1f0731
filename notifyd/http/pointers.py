"""From where we say that a fault is (`toUserIds[0]`) to a JSON Pointer (`/toUserIds/0`, RFC 6901)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_INDEX = re.compile(r"\[(\d+)\]", re.ASCII)
_NAME = re.compile(r"[^.\[]+")
#: Numbers stay text: one that no float holds is no reason to find nothing.
_decoder = msgspec.json.Decoder(float_hook=str)


class Pointers:
    """Finds places in one envelope.

    A dotted path is ambiguous where keys hold dots or brackets themselves (user ids such as `a.b`), so
    it is followed through the envelope: the longest key that fits is the one that is meant.
    """

    def __init__(self, value: bytes) -> None:
        try:
            self._document: Any = _decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._document = None

    def find(self, field: str) -> str:
        """Return the pointer to `field`, "" for the whole; what is missing is named where it belongs.

        A path that was cut short leads to the last part that is whole.
        """
        node, rest, tokens = self._document, field, []
        while rest:
            index = _INDEX.match(rest)
            if index is not None and not isinstance(node, dict):
                token, rest = index[1], rest[index.end() :]
                node = node[int(token)] if isinstance(node, list) and int(token) < len(node) else None
            else:
                token = _key(node, rest)
                rest = rest[len(token) :]
                node = node.get(token) if isinstance(node, dict) else None
            if not rest and token.endswith("…") and node is None:
                break
            tokens.append(token)
            rest = rest.removeprefix(".")
        return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def _key(node: Any, rest: str) -> str:
    """Take the next key of a path."""
    fitting = [key for key in node if _starts(rest, key)] if isinstance(node, dict) else []
    if fitting:
        return str(max(fitting, key=len))
    name = _NAME.match(rest)
    return name[0] if name is not None else rest


def _starts(rest: str, key: str) -> bool:
    return bool(key) and rest.startswith(key) and (len(rest) == len(key) or rest[len(key)] in ".[")
