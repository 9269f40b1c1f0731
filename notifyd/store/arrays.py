"""Columns as PostgreSQL reads them fastest, made in a few calls for all values together."""

from __future__ import annotations

from collections.abc import Sequence

from notifyd.store.errors import RowError


def of_plain(values: Sequence[int | str]) -> str:
    """Write what needs no quotes: numbers, dates, UUIDs."""
    return "{" + ",".join(map(str, values)) + "}"


def of_optional(values: Sequence[int | str | None]) -> str:
    """Write what needs no quotes, None as NULL; nothing where all are, for `unnest` fills up with NULL."""
    if not any(values) and all(value is None for value in values):
        return "{}"
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def of_texts(values: Sequence[str]) -> str:
    """Write texts. Raises `RowError` where one holds a NUL, which no text of PostgreSQL can."""
    if not values:
        return "{}"
    joined = "\0".join(values)
    if joined.count("\0") != len(values) - 1:
        raise RowError("a text holds a NUL character")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + escaped.replace("\0", '","') + '"}'


def of_bytes(value: bytes) -> bytes | str:
    """Write what is to be a `bytea`: ASCII in its escape format, which is half as long as hex.

    Anything else stays as it is: what it is as text depends on the encodings of client and server.
    """
    if not value.isascii() or b"\0" in value:
        return value
    return value.decode("ascii").replace("\\", "\\\\")
