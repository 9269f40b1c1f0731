"""Build envelopes: what our own producers write."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from notifyd.message.ids import new_id
from notifyd.message.versions import NEWEST

_encoder = msgspec.json.Encoder()


def build_envelope(
    *,
    to: str | Sequence[str],
    sender: str,
    created_by: str,
    title: str | None = None,
    body: str | None = None,
    type: str | None = None,
    url: str | None = None,
    data: Any = None,
    channels: Sequence[str] | None = None,
    contacts: Mapping[str, Any] | None = None,
    ttl: float | str | None = None,
    expires_at: dt.datetime | str | None = None,
    not_before: dt.datetime | str | None = None,
    collapse_key: str | None = None,
    critical: bool | None = None,
    fallback: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    id: str | None = None,
    created_at: dt.datetime | dt.date | str | None = None,
) -> bytes:
    """Encode an envelope of the newest content version.

    `to` one user id or several; `id` by default a new UUID of version 7; `created_at` by default
    now. What is None is left out. `content` adds fields of its own, and wins over the arguments.
    Checks nothing: `decode` and `find_faults` do, with the limits of who sends. Raises
    `ValueError` for a time without its zone and `TypeError` for what JSON cannot hold.
    """
    named = {
        "version": NEWEST.as_json(),
        "type": type,
        "title": title,
        "body": body,
        "url": url,
        "data": data,
        "channels": channels,
        "contacts": contacts,
        "ttl": ttl,
        "expiresAt": _time(expires_at),
        "notBefore": _time(not_before),
        "collapseKey": collapse_key,
        "critical": critical,
        "fallback": fallback,
    }
    fields = {name: part for name, part in named.items() if part is not None}
    return _encoder.encode(
        {
            "from": sender,
            "UUID": new_id() if id is None else id,
            "content": {**fields, **(content or {})},
            "toUserIds": [to] if isinstance(to, str) else list(to),
            "createBy": created_by,
            "createDateTime": _time(dt.datetime.now(dt.UTC) if created_at is None else created_at),
        }
    )


def _time(value: dt.datetime | dt.date | str | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dt.datetime):
        return value.isoformat()
    if value.utcoffset() is None:
        raise ValueError(f"{value.isoformat()} has no time zone; give it one, as datetime.now(timezone.utc)")
    text = value.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
