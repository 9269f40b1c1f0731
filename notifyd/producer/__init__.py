"""For backend services in Python: put notifications on the topic, and know that they are there."""

from __future__ import annotations

from notifyd.producer.notifier import Confirmation, InvalidEnvelope, Notifier, Outgoing

__all__ = ["Confirmation", "InvalidEnvelope", "Notifier", "Outgoing"]
