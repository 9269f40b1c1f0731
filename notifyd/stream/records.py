"""Records on their way to Kafka, where they ended up, and the errors that leave this in doubt."""

from __future__ import annotations

from dataclasses import dataclass

from notifyd.errors import TransientError


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to write. Without `partition` the key chooses it (murmur2, as the Java client)."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where the broker put a record."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def not_confirmed(record: OutRecord, limit_s: float) -> TransientError:
    """Say of a record that was handed over that nobody knows yet."""
    return TransientError(
        f"a record for {record.topic} was not confirmed within {limit_s:g} s: it may still arrive",
        reason="producer_timeout",
        remedy="send it again with the same UUID",
    )


def stopped() -> TransientError:
    """Say that the producer stopped first."""
    return TransientError(
        "the producer is stopped: what it had not confirmed may still arrive",
        reason="producer_stopped",
        remedy="send it again with the same UUID",
    )


def no_room(waiting: int) -> TransientError:
    """Say why a record was not even handed over; `waiting` those that fill the buffer, 0: it is not full."""
    if waiting:
        return TransientError(
            f"{waiting} records wait for the broker already",
            reason="buffer_full",
            remedy="send slower, or raise NOTIFYD_PRODUCER_MAX_PENDING",
        )
    return TransientError(
        "the broker does not answer", reason="broker_unavailable", remedy="is it up and reachable?"
    )
