"""The limits of an envelope, as one value."""

from __future__ import annotations

from dataclasses import dataclass

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
