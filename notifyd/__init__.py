"""notifyd: notifications from Kafka to every device of every user, and a final state for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notifyd.version import VERSION as __version__

if TYPE_CHECKING:
    from notifyd.producer import Notifier

__all__ = ["Notifier", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy: `import notifyd` must not pull in a Kafka client for who only wants the version.
    if name == "Notifier":
        from notifyd.producer import Notifier

        return Notifier
    raise AttributeError(f"module 'notifyd' has no attribute {name!r}")
