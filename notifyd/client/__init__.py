"""A client of the push protocol, for Python."""

from notifyd.client.push import PushClient, PushClosed

__all__ = ["PushClient", "PushClosed"]
