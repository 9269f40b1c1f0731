"""Dead letters as people and programs are shown them: one by one, and counted. Pure."""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from notifyd.delivery.audit import Place
from notifyd.stream.dead_letter import DeadLetter
from notifyd.stream.replay import names_in

#: What dead letters can be counted by.
COUNTED_BY: Final = ("reason", "channel", "sender", "user")

#: Finds the id of an envelope that is no JSON any more (cut off, a stray byte).
_ID: Final = re.compile(rb'"UUID"\s*:\s*"([0-9A-Fa-f-]{36})"')


def describe(letter: DeadLetter, *, with_value: bool = False) -> dict[str, Any]:
    """Turn a dead letter into what `--json` prints: `topic`, `partition`, `offset` of the original record."""
    topic, partition, offset = letter.topic, letter.partition, letter.offset
    where = letter.position.rsplit("/", 2)
    if len(where) == 3 and where[1].isdigit() and where[2].isdigit():
        topic, partition, offset = where[0].split("/", 1)[-1], int(where[1]), int(where[2])
    first_at = letter.first_at_ms if letter.first_at_ms is not None else letter.timestamp_ms
    item: dict[str, Any] = {
        "place": f"{letter.partition}:{letter.offset}",
        "reason": letter.reason,
        "error": letter.error,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "attempts": letter.attempts,
        "first_at": iso(first_at),
        "id": _id_in(letter.value),
        "user": letter.user,
        "channel": letter.channel,
    }
    if with_value:
        item["value_base64"] = None if letter.value is None else base64.b64encode(letter.value).decode()
    return item


def describe_whole(letter: DeadLetter) -> dict[str, Any]:
    """Turn a dead letter into what `show` prints, but for its audit."""
    return {
        **describe(letter),
        "died_at": iso(letter.timestamp_ms),
        "bytes": len(letter.value or b""),
        "message": _public(letter.value),
    }


class Count:
    """Counts dead letters by one of `COUNTED_BY`."""

    def __init__(self, by: str) -> None:
        self._name: Callable[[DeadLetter], str | None] = {
            "reason": lambda letter: letter.reason,
            "channel": lambda letter: letter.channel,
            "sender": lambda letter: names_in(letter)[1],
            "user": lambda letter: letter.user,
        }[by]
        self._rows: dict[str | None, dict[str, Any]] = {}
        #: The row of each that was added.
        self._places: dict[Place, dict[str, Any]] = {}

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    @property
    def places(self) -> Mapping[Place, Any]:
        """Those that were added since the last call of `settle`."""
        return self._places

    def add(self, letter: DeadLetter) -> None:
        """Count one."""
        name = self._name(letter)
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = {
                "name": name, "letters": 0, "open": 0, "first": letter.timestamp_ms, "last": 0
            }  # fmt: skip
        row["letters"] += 1
        row["first"] = min(row["first"], letter.timestamp_ms)
        row["last"] = max(row["last"], letter.timestamp_ms)
        self._places[letter.partition, letter.offset] = row

    def settle(self, handled: set[Place] | None) -> None:
        """Learn which of `places` something was done with; None: nobody knows."""
        for place, row in self._places.items():
            if handled is None:
                row["open"] = None
            elif row["open"] is not None:
                row["open"] += place not in handled
        self._places.clear()

    def rows(self) -> list[dict[str, Any]]:
        """Return `name`, `letters`, `open`, `first_at`, `last_at` of each, the most letters first."""
        return [
            {
                "name": row["name"],
                "letters": row["letters"],
                "open": row["open"],
                "first_at": iso(row["first"]),
                "last_at": iso(row["last"]),
            }
            for row in sorted(self._rows.values(), key=lambda row: (-row["letters"], str(row["name"])))
        ]


def iso(timestamp_ms: int) -> str:
    """Write a time as RFC 3339; one that is none as it is."""
    try:
        at = dt.datetime.fromtimestamp(timestamp_ms / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _public(value: bytes | None) -> Any:
    """Return a message without addresses and secrets; a text says that it cannot be read."""
    if not value:
        return None
    try:
        message = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "cannot be read; `notifyd dlq export` has its bytes"
    if isinstance(message, dict) and isinstance(message.get("content"), dict):
        message["content"].pop("contacts", None)
    return message


def _id_in(value: bytes | None) -> str | None:
    if not value:
        return None
    try:
        found = msgspec.json.decode(value)
        text = found.get("UUID") if isinstance(found, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        match = _ID.search(value)
        text = match.group(1).decode() if match else None
    return text if isinstance(text, str) else None
