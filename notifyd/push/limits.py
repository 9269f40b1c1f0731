"""What clients may take of a process."""

from __future__ import annotations

from dataclasses import dataclass

from notifyd import descriptors
from notifyd.settings import Settings


@dataclass(frozen=True, slots=True)
class PushLimits:
    """What one connection, user or address may take, and all of them."""

    max_frame_bytes: int
    max_frames_per_s: float
    max_unsent_bytes: int
    max_connections_per_user: int
    #: 0: no limit.
    max_connections_per_address: int
    max_connections: int

    @classmethod
    def of(cls, settings: Settings) -> PushLimits:
        """Read them from the settings."""
        return cls(
            settings.ws_max_frame_bytes,
            settings.ws_max_frames_per_s,
            settings.ws_max_unsent_bytes,
            settings.ws_max_connections_per_user,
            settings.ws_max_connections_per_address,
            settings.ws_max_connections or descriptors.places(),
        )
