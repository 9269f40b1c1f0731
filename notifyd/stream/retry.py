"""Retry records: the original bytes, and headers that say for whom, how, and when to try again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from notifyd.delivery.event import FIRST_RUN
from notifyd.errors import InvalidMessage
from notifyd.stream.producer import OutRecord
from notifyd.stream.topics import Topics

CHANNEL: Final = "notifyd-channel"
USERS: Final = "notifyd-users"
ATTEMPT: Final = "notifyd-attempt"
RUN: Final = "notifyd-run"
DUE: Final = "notifyd-due"
FIRST_AT: Final = "notifyd-first-at"
DEFERRALS: Final = "notifyd-deferrals"

_OURS: Final = frozenset({CHANNEL, USERS, ATTEMPT, RUN, DUE, FIRST_AT, DEFERRALS})

_users = msgspec.json.Decoder(tuple[str, ...])


@dataclass(frozen=True, slots=True)
class RetryOrder:
    """What a retry record asks for: attempt number `attempt` of `run`, for `users`, by `channel`.

    `due_ms` is when to try, `first_at_ms` when the record came first (both ms since 1970).
    `deferrals` is how often this attempt was put off without being counted: with it, attempt
    and run name one step of a chain of retries.
    """

    channel: str
    users: tuple[str, ...]
    attempt: int
    due_ms: int
    first_at_ms: int
    run: str = FIRST_RUN
    deferrals: int = 0


def retry_record(record: Any, topics: Topics, rung: str, order: RetryOrder) -> OutRecord:
    """Build the record for the retry topic of `rung`; key, value and foreign headers stay as they are."""
    ours = (
        (CHANNEL, order.channel.encode()),
        (USERS, msgspec.json.encode(order.users)),
        (ATTEMPT, str(order.attempt).encode()),
        (RUN, order.run.encode()),
        (DUE, str(order.due_ms).encode()),
        (FIRST_AT, str(order.first_at_ms).encode()),
        (DEFERRALS, str(order.deferrals).encode()),
    )
    return OutRecord(
        topics.retry[rung], record.value, key=record.key, headers=(*foreign_headers(record.headers), *ours)
    )


def foreign_headers(headers: Iterable[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """Return the headers that are not about a retry."""
    if not headers:  # as most records
        return ()
    return tuple((name, value) for name, value in headers if name not in _OURS)


def read_order(record: Any) -> RetryOrder:
    """Read the headers of a retry record; raises `InvalidMessage` (reason `bad_retry_headers`)."""
    found = {name: value for name, value in record.headers if name in _OURS}
    try:
        return RetryOrder(
            channel=found[CHANNEL].decode(),
            users=_users.decode(found[USERS]),
            attempt=int(found[ATTEMPT]),
            due_ms=int(found[DUE]),
            first_at_ms=int(found[FIRST_AT]),
            run=found.get(RUN, b"").decode(),
            deferrals=int(found.get(DEFERRALS, b"0")),
        )
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise InvalidMessage(
            "headers", f"are not those of a retry record ({error})", reason="bad_retry_headers"
        ) from error
