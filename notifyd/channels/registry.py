"""Which channels there are. A new one is a file beside this and a line in `build_channels`."""

from __future__ import annotations

from notifyd.channels.port import Channel
from notifyd.channels.stub import StubChannel
from notifyd.channels.webhook import WebhookChannel
from notifyd.metrics import Metrics
from notifyd.settings import Settings


def build_channels(settings: Settings, metrics: Metrics) -> dict[str, Channel]:
    """Make every channel of the `deliver` role, by the name that messages use; starts none."""
    channels: list[Channel] = [WebhookChannel(settings, metrics), StubChannel(settings.stub_script)]
    return {channel.name: channel for channel in channels}
