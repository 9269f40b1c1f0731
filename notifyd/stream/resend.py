"""Resend records: the original bytes, and headers that name the one delivery to do again.

Only the sweep and the replay of dead letters write them; the topic's ACL says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from notifyd.errors import InvalidMessage
from notifyd.stream.producer import OutRecord
from notifyd.stream.topics import Topics

USER: Final = "notifyd-user"
CHANNEL: Final = "notifyd-channel"
RUN: Final = "notifyd-run"
FIRST_AT: Final = "notifyd-first-at"

#: On a record of the input topic: the same bytes again, since their `notBefore` has come.
RELEASE: Final = "notifyd-release"

_OURS: Final = frozenset({USER, CHANNEL, RUN, FIRST_AT})


@dataclass(frozen=True, slots=True)
class ResendOrder:
    """Deliver to `user` by `channel` again, as `run`; `first_at_ms` is when the message was accepted
    (ms since 1970): its `ttl` counts from there. `traceparent`: the trace that its producer named.
    """

    user: str
    channel: str
    run: str
    first_at_ms: int
    traceparent: str | None = None


def resend_record(raw: bytes, key: bytes, topics: Topics, order: ResendOrder) -> OutRecord:
    """Build the record that asks for one delivery again."""
    headers = (
        (USER, order.user.encode()),
        (CHANNEL, order.channel.encode()),
        (RUN, order.run.encode()),
        (FIRST_AT, str(order.first_at_ms).encode()),
        *_trace(order.traceparent),
    )
    return OutRecord(topics.resend, raw, key=key, headers=headers)


def release_record(raw: bytes, key: bytes, topics: Topics, *, traceparent: str | None = None) -> OutRecord:
    """Build the record that puts a scheduled message on the input topic again."""
    return OutRecord(topics.messages, raw, key=key, headers=((RELEASE, b"1"), *_trace(traceparent)))


def _trace(traceparent: str | None) -> tuple[tuple[str, bytes], ...]:
    return () if traceparent is None else (("traceparent", traceparent.encode()),)


def read_resend(record: Any) -> ResendOrder:
    """Read the headers of a resend record; raises `InvalidMessage` (reason `bad_resend_headers`)."""
    found = {name: value for name, value in record.headers if name in _OURS}
    try:
        order = ResendOrder(
            user=found[USER].decode(),
            channel=found[CHANNEL].decode(),
            run=found[RUN].decode(),
            first_at_ms=int(found[FIRST_AT]),
        )
    except (KeyError, ValueError) as error:
        raise InvalidMessage(
            "headers", f"are not those of a resend record ({error})", reason="bad_resend_headers"
        ) from error
    if not order.run:
        raise InvalidMessage("headers", f"{RUN} is empty", reason="bad_resend_headers")
    return order
