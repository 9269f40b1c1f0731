"""The roles there are. Kept apart so that the command line knows them without loading them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from notifyd.errors import ConfigError

#: Every role, with what it does in a line.
ROLES: Final = {
    "deliver": "sends messages through webhooks and the other channels, retries, sets aside what cannot work",
    "persist": "stores messages and what happened to them in PostgreSQL",
    "sweep": "looks after what is unfinished: resends, releases what was scheduled",
    "ws": "pushes messages to connected users over WebSocket",
    "api": "takes messages in by HTTP",
}


def parse_roles(text: str) -> tuple[str, ...]:
    """Read `a,b` or `all`; raises `ConfigError` that suggests the nearest name."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(
            "no role is named", reason="unknown_role", remedy=f"one of {', '.join(ROLES)}, or all"
        )
    if "all" in names:
        return tuple(ROLES)
    for name in names:
        if name not in ROLES:
            near = difflib.get_close_matches(name, [*ROLES, "all"], n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(ROLES)}, or all"
            raise ConfigError(f"there is no role {name!r}", reason="unknown_role", remedy=hint)
    return tuple(dict.fromkeys(names))


def describe_roles(names: Sequence[str]) -> str:
    """Name roles for a log line."""
    return ",".join(names)
