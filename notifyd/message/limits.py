"""The limits of an envelope, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from notifyd.message.times import DAY_MS
from notifyd.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """What an envelope may be: sizes, and times against the timestamp of its Kafka record.

    `max_bytes` of the record's value; `max_recipients` entries of `toUserIds`;
    `max_user_id_chars` code points of one; `max_ahead_s` how far ahead of the record a message
    may be dated; `retention_s` how far back, and how far ahead its life may reach.
    """

    max_bytes: int = 262_144
    max_recipients: int = 1000
    max_user_id_chars: int = 128
    max_ahead_s: float = 86_400.0
    retention_s: float = 604_800.0
    _max_ahead_ms: int = field(init=False, repr=False, compare=False)
    _retention_ms: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once here and not for every message.
        object.__setattr__(self, "_max_ahead_ms", int(self.max_ahead_s * 1000))
        object.__setattr__(self, "_retention_ms", int(self.retention_s * 1000))

    def days_around(self, timestamp_ms: int) -> tuple[int, int]:
        """Count the first and the last day, from 1970-01-01, that a record of that time may belong to.

        Days, not moments: what matters is which day partition the row goes to.
        """
        return (timestamp_ms - self._retention_ms) // DAY_MS, (timestamp_ms + self._max_ahead_ms) // DAY_MS

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits out of the settings."""
        return cls(
            max_bytes=settings.message_max_bytes,
            max_recipients=settings.message_max_recipients,
            max_user_id_chars=settings.message_max_user_id_chars,
            max_ahead_s=settings.message_max_ahead_s,
            retention_s=settings.topic_retention_s,
        )
