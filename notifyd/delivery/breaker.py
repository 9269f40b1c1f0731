"""Pauses a sender on a channel when too many of its recent deliveries end dead. Pure.

A channel that fails for everybody, or a sender whose receiver is gone, would pour a topic into
the dead-letter queue. Beyond a share of recent outcomes the pair is paused instead: its
deliveries wait in the retry topics, and nobody else is touched.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

#: Reasons of a death that are the sender's input, not a failure of ours or of a channel.
INPUT_REASONS: Final = frozenset(
    {
        "unknown_channel",
        "bad_content",
        "bad_contact",
        "bad_url",
        "bad_secret",
        "bad_address",
        "bad_subscription",
        "scheme_refused",
        "https_required",
        "address_refused",
        "gone",
    }
)

#: Pairs that are watched at most; the one heard of longest ago makes room.
_MAX_PAIRS: Final = 10_000


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to pause, and for how long.

    At least `min_dead` deaths, and more than `share` (0 to 1) of all outcomes, within the last
    `window_s` seconds (whole ones) pause a pair for `pause_s` seconds.
    """

    share: float = 0.5
    min_dead: int = 100
    window_s: float = 60.0
    pause_s: float = 60.0


@dataclass(slots=True)
class _Second:
    """The outcomes of one second."""

    at_s: int
    count: int = 0
    dead: int = 0


@dataclass(slots=True)
class _Pair:
    """The seconds of the window in which something ended, and their sums."""

    seconds: deque[_Second] = field(default_factory=deque)
    count: int = 0
    dead: int = 0
    paused_until_s: float = 0.0


class Breaker:
    """Outcomes of each (sender, channel) within a sliding window; times are given, in seconds."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def paused_for_s(self, sender: str, channel: str, now_s: float) -> float:
        """How long this pair is still paused; 0 where it is not."""
        pair = self._pairs.get((sender, channel))
        return 0.0 if pair is None else max(0.0, pair.paused_until_s - now_s)

    def note(self, sender: str, channel: str, *, is_dead: bool, now_s: float) -> bool:
        """Note one outcome; true when it is the one that pauses the pair."""
        key = (sender, channel)
        pair = self._pairs.pop(key, None) or _Pair()
        self._pairs[key] = pair
        if len(self._pairs) > _MAX_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        _count(pair, is_dead, int(now_s), first_s=int(now_s - self._policy.window_s))
        if now_s < pair.paused_until_s or pair.dead < self._policy.min_dead:
            return False
        if pair.dead <= self._policy.share * pair.count:
            return False
        pair.paused_until_s = now_s + self._policy.pause_s
        # After the pause it is judged by what comes then, not by what is long known.
        pair.seconds.clear()
        pair.count = pair.dead = 0
        return True


def _count(pair: _Pair, is_dead: bool, at_s: int, *, first_s: int) -> None:
    """Count an outcome of the second `at_s`, and forget those before `first_s`."""
    seconds = pair.seconds
    if not seconds or seconds[-1].at_s != at_s:
        seconds.append(_Second(at_s))
    seconds[-1].count += 1
    pair.count += 1
    if is_dead:
        seconds[-1].dead += 1
        pair.dead += 1
    while seconds[0].at_s < first_s:
        gone = seconds.popleft()
        pair.count -= gone.count
        pair.dead -= gone.dead
