"""A channel that answers what it is told to: for tests and trials of retries, drains and the DLQ."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import Final

from notifyd.channels.port import Delivery
from notifyd.delivery.contact import Contact
from notifyd.delivery.outcome import Dead, Done, Outcome, Retry, Skip
from notifyd.errors import ConfigError

_WORD = re.compile(r"(done|dead|skip|busy|hang|deaf|block|raise)|(retry|slow)(?::(\d+(?:\.\d+)?))?")
_REMEDY: Final = "words: done, dead, skip, retry, retry:SECONDS, slow:SECONDS, busy, hang, deaf, block, raise"


class StubChannel:
    """The channel `stub`: attempt n of a delivery gets the n-th word of `script`, later ones the last.

    It keeps no state, so that any process gives the same answer to the same attempt, and asks
    for no address. `done`, `dead`, `skip`; `retry` (or after the seconds named); `slow:0.2` is
    done after 0.2 s; `busy` is a retry that does not count; `hang` never answers; `deaf` does not
    even end when cancelled, `block` blocks the event loop and `raise` fails, as bugs would.
    Raises `ConfigError` on any other word.
    """

    name = "stub"

    def __init__(self, script: str) -> None:
        self._script: list[tuple[str, float | None]] = []
        for word in script.split(",") if script.strip() else ["done"]:
            match = _WORD.fullmatch(word.strip())
            if match is None:
                raise ConfigError(
                    f"NOTIFYD_STUB_SCRIPT: {word.strip()!r} is no answer",
                    reason="bad_setting",
                    remedy=_REMEDY,
                )
            seconds = float(match[3]) if match[3] else None
            self._script.append((match[1] or match[2], seconds))

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to let go of."""

    async def send(self, delivery: Delivery, contact: Contact) -> Outcome:
        """Answer by the script; `contact` does not matter."""
        word, seconds = self._script[min(max(delivery.attempt, 1), len(self._script)) - 1]
        match word:
            case "dead":
                return Dead("stub_dead", "by script")
            case "skip":
                return Skip("stub_skip")
            case "retry":
                return Retry("stub_retry", after_s=seconds, detail="by script")
            case "busy":
                return Retry("stub_busy", detail="by script", counts=False)
            case "slow":
                await asyncio.sleep(seconds or 0.0)
            case "hang":
                await asyncio.Event().wait()
            case "deaf":
                while True:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
            case "block":
                time.sleep(3600)  # noqa: ASYNC251  this is the fault that it plays
            case "raise":
                raise RuntimeError("the stub channel was told to fail")
        return Done("by script")
