"""What to do about a delivery that nobody has spoken of by its deadline (DESIGN 11). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from notifyd.delivery.event import FIRST_RUN

#: Reasons that the sweep gives.
ABSENT: Final = "absent"
POD_LOST: Final = "pod_lost"
NO_OUTCOME: Final = "no_outcome"
NOT_ACKNOWLEDGED: Final = "not_acknowledged"
#: Reason of a delivery that is done only where the user has not seen the message by its `due_at`.
FALLBACK: Final = "fallback"
SEEN: Final = "seen"

#: How long a client may take to acknowledge what was sent to it before nobody waits for that any more.
UNACKED_S: Final = 24 * 3600.0
#: When to look again at what is only late.
LATER_S: Final = 30.0


class Overdue(msgspec.Struct, frozen=True, gc=False):
    """A delivery past its `next_check_at`, with what its message's row knows.

    `partition` and `offset` are where it came to be due, in `incarnation`; times are Unix milliseconds.
    `run` is that of its winning event; `resends` how many the broker has; `pending_run` that of one that
    may be under way. `is_fallback`: nobody has begun with it; `is_seen`: the user has seen the message.
    The order is that of `lease_due.sql`.
    """

    id: str
    day: str
    digest: str
    user: str
    channel: str
    state: str
    run: str
    attempt: int
    at_ms: int
    resends: int
    pending_run: str | None
    incarnation: str
    partition: int
    offset: int
    accepted_at_ms: int
    expires_at_ms: int | None
    is_fallback: bool = False
    is_seen: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A `ws` process: per partition from where it speaks, and up to where all that it did is stored.

    `is_live`: it was heard of lately.
    """

    start: Mapping[int, int]
    done: Mapping[int, int]
    is_live: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the others have come, all read before the deliveries in question.

    `committed` of the input topic per partition; `resend_is_done`, `retry_is_done`: whether nothing that
    is due waits in those topics; `pods` those of `ws`, of the same `incarnation`.
    """

    incarnation: str
    committed: Mapping[int, int]
    resend_is_done: bool
    retry_is_done: bool
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Later:
    """Look again in `after_s`: whoever has to speak has not come to it yet."""

    after_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Resend:
    """Its outcome is lost: do it again."""


@dataclass(frozen=True, slots=True)
class Settle:
    """It has an end now: an event of this stage."""

    stage: str
    reason: str
    detail: str | None = None


Verdict = Later | Resend | Settle


def judge(one: Overdue, progress: Progress, *, now_ms: int, max_resends: int) -> Verdict:
    """Say what becomes of it. What may still come by itself is left alone, however late it is."""
    if one.channel == "ws":
        return _judge_push(one, progress, now_ms)
    is_untouched = one.is_fallback and one.state == "pending" and one.pending_run is None
    if is_untouched and one.is_seen:
        return Settle("skipped", SEEN)
    if not is_untouched and (late := _awaits(one, progress)):
        return Later(LATER_S, late)
    if one.expires_at_ms is not None and now_ms >= one.expires_at_ms:
        return Settle("expired", "expired")
    if one.resends >= max_resends and one.pending_run is None:
        return Settle("dead", NO_OUTCOME, f"no outcome after {one.resends} resends")
    return Resend()


def _awaits(one: Overdue, progress: Progress) -> str:
    """Name the topic in which its record still waits for `deliver`; empty where none can."""
    if one.state == "retry_wait":
        return "" if progress.retry_is_done else "retry"
    if one.run != FIRST_RUN or one.pending_run is not None or one.resends:
        return "" if progress.resend_is_done and progress.retry_is_done else "resend"
    if one.incarnation != progress.incarnation:
        return ""  # that life of the topic is over, and nobody reads it any more
    return "" if progress.committed.get(one.partition, 0) > one.offset else "messages"


def _judge_push(one: Overdue, progress: Progress, now_ms: int) -> Verdict:
    if one.state == "sent":
        if now_ms - one.at_ms < UNACKED_S * 1000:
            return Later(LATER_S * 20, "ack")
        # A client that never acknowledges: it was sent, and that is its end.
        return Settle("sent", NOT_ACKNOWLEDGED, "no_acks")
    if one.expires_at_ms is not None and now_ms >= one.expires_at_ms:
        return Settle("expired", "expired")
    speaks = [pod for pod in progress.pods if pod.start.get(one.partition, 0) <= one.offset]
    if one.incarnation != progress.incarnation:
        return Settle("stored", POD_LOST)
    live = [pod for pod in speaks if pod.is_live]
    if any(pod.done.get(one.partition, 0) <= one.offset for pod in live):
        return Later(LATER_S, "ws")
    lost = any(not pod.is_live and pod.done.get(one.partition, 0) <= one.offset for pod in speaks)
    return Settle("stored", POD_LOST if lost or not speaks else ABSENT)
