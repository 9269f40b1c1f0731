"""The one error tree. Every error carries a stable `reason` and says what its reader can do."""

from __future__ import annotations


class NotifydError(Exception):
    """Root of every error that notifyd raises on purpose.

    `reason` is a snake_case word that stays the same over releases: the dead-letter queue,
    metrics, logs and docs use it. `remedy` says what the reader can do about it.
    """

    reason: str = "internal"

    def __init__(self, message: str, *, reason: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InvalidMessage(NotifydError):
    """An envelope breaks a rule of its format. Names the field (a dotted path) and the rule."""

    reason = "invalid_message"

    def __init__(self, field: str, rule: str, *, reason: str | None = None, remedy: str = "") -> None:
        super().__init__(f"{field}: {rule}" if field else rule, reason=reason, remedy=remedy)
        self.field = field
        self.rule = rule


class TransientError(NotifydError):
    """Something that may pass: try again, after `retry_after_s` seconds where the peer said so."""

    reason = "transient"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        remedy: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, remedy=remedy)
        self.retry_after_s = retry_after_s


class PermanentError(NotifydError):
    """Something that no repetition can mend."""

    reason = "permanent"


class ConfigError(NotifydError):
    """A setting, an argument or the surroundings are wrong; a person has to change them."""

    reason = "config"
