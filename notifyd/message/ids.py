"""Message ids: UUIDs in their RFC 9562 text form, ours of version 7."""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import Final

_TEXT = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", re.ASCII)

#: Says whether a text is a UUID: 8-4-4-4-12 hexadecimal digits, any version.
is_uuid: Final = _TEXT.fullmatch


def is_time_ordered(message_id: str) -> bool:
    """Say whether a canonical id is of version 7 and of the RFC's variant, so carries its time."""
    return message_id[14] == "7" and message_id[19] in "89ab"


def time_of(message_id: str) -> int:
    """Read the Unix milliseconds that a version 7 id starts with (RFC 9562, section 5.7)."""
    return int(message_id[:8] + message_id[9:13], 16)


class _Clock:
    """Gives each caller a later tick than the one before, whatever the wall clock does.

    A tick is the Unix time in 1/4096 ms: the 48 bits of `unix_ts_ms` and, in `rand_a`, the
    fraction of the millisecond (RFC 9562, section 6.2, method 3).
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def tick(self, now_ns: int) -> int:
        with self._lock:
            self._last = max(self._last + 1, (now_ns << 12) // 1_000_000)
            return self._last


_clock = _Clock()


def new_id() -> str:
    """Make a UUID of version 7; ids of one process rise in the order of their making."""
    tick = _clock.tick(time.time_ns())
    number = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
