"""Which channels there are. A new one is a file beside this and a line in `build_channels`.

Other distributions bring theirs by an entry point of the group `notifyd.channels`: a function of settings
and metrics that returns a `Channel`, or None where the settings do not ask for it.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from notifyd.channels.email import EmailChannel
from notifyd.channels.port import Channel
from notifyd.channels.stub import StubChannel
from notifyd.channels.webhook import WebhookChannel
from notifyd.errors import ConfigError
from notifyd.metrics import Metrics
from notifyd.settings import Settings

GROUP: Final = "notifyd.channels"


def build_channels(settings: Settings, metrics: Metrics) -> dict[str, Channel]:
    """Make every channel of the `deliver` role, by the name that messages use; starts none.

    Raises `ConfigError` for settings that cannot work, and for what others bring that does not fit.
    """
    channels: list[Channel] = [WebhookChannel(settings, metrics), StubChannel(settings.stub_script)]
    if settings.smtp_url is not None:
        channels.append(EmailChannel(settings, metrics))
    if settings.webpush_key is not None:
        # Its libraries take a third of a second to load: only where there is such a channel.
        from notifyd.channels.webpush import WebPushChannel

        channels.append(WebPushChannel(settings, metrics))
    if settings.apprise_schemes:
        from notifyd.channels.apprise import AppriseChannel

        channels.append(AppriseChannel(settings))
    found = {channel.name: channel for channel in channels}
    for channel in _foreign(settings, metrics):
        if channel.name in found or channel.name == "ws":
            raise ConfigError(
                f"a package brings a channel {channel.name!r}, which there is already",
                reason="bad_channel",
                remedy="remove the package, or have it use another name",
            )
        found[channel.name] = channel
    return found


def _foreign(settings: Settings, metrics: Metrics) -> list[Channel]:
    channels: list[Channel] = []
    for point in entry_points(group=GROUP):
        try:
            channel = point.load()(settings, metrics)
        except ConfigError:
            raise
        except Exception as error:  # whatever foreign code does while it loads
            owner = point.dist.name if point.dist is not None else point.value
            raise ConfigError(
                f"the channel {point.name!r} of {owner} cannot be made: {type(error).__name__}: {error}",
                reason="bad_channel",
                remedy="mend or remove that package",
            ) from error
        if channel is not None:
            channels.append(channel)
    return channels
