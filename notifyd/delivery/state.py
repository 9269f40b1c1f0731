"""The state of a delivery, merged out of events in any order, and of a message out of its deliveries.

The merge is a maximum, so order and repetition cannot matter. The same runs in SQL
(`store/queries/apply_events.sql`), and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from notifyd.delivery.event import FIRST_RUN, STAGES, Event

#: Position in `STAGES`; a stage that a newer release knows is in the record but moves no state.
_RANK: Final[Mapping[str, int]] = {stage: rank for rank, stage in enumerate(STAGES, 1)}

#: What beats every run and attempt. `acked` is above `sent`, so that a resend which crossed an
#: acknowledgement cannot make a delivery that the user has confirmed look open again.
_SUCCESS: Final[Mapping[str, int]] = {"sent": 1, "acked": 2}

#: After these nothing more is due by itself, whatever the channel.
_FINAL: Final = frozenset({"acked", "skipped", "expired", "failed", "dead"})
#: Besides: an absent user's ws delivery waits in the inbox; elsewhere the 2xx is all there is.
_FINAL_OF_WS: Final = _FINAL | {"stored"}
_FINAL_OF_OTHERS: Final = _FINAL | {"sent"}

#: `detail` of a ws `sent` where the client asked for no acks: `sent` is the end then.
NO_ACKS: Final = "no_acks"


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """Where a delivery stands: the winning event, and the highest attempt that any event told of.

    `at_ms`, `due_ms` Unix milliseconds; `reason`, `detail` and `pod` those of the winning event.
    """

    stage: str
    run: str
    attempt: int
    attempts: int
    at_ms: int
    pod: str
    due_ms: int | None = None
    reason: str | None = None
    detail: str | None = None


def merge(state: DeliveryState | None, event: Event) -> DeliveryState | None:
    """Merge an event of this delivery into its state (DESIGN 6); order and repetition do not matter.

    The greatest wins by (success, run, attempt, rank of the stage), ties by the rest of the event,
    so that equal sets of events end in equal states to the last field. Stages of the inbox and
    unknown ones change nothing.
    """
    if event.stage not in _RANK:
        return state
    told = DeliveryState(
        stage=event.stage,
        run=event.run,
        attempt=event.attempt,
        attempts=event.attempt,
        at_ms=event.at,
        pod=event.pod,
        due_ms=event.due,
        reason=event.reason,
        detail=event.detail,
    )
    return told if state is None else join(state, told)


def join(one: DeliveryState, other: DeliveryState) -> DeliveryState:
    """Return the greater of two states, with the most attempts of both."""
    winner = max(one, other, key=_order)
    attempts = max(one.attempts, other.attempts)
    if attempts == winner.attempts:
        return winner
    return DeliveryState(
        stage=winner.stage,
        run=winner.run,
        attempt=winner.attempt,
        attempts=attempts,
        at_ms=winner.at_ms,
        pod=winner.pod,
        due_ms=winner.due_ms,
        reason=winner.reason,
        detail=winner.detail,
    )


def initial(*, at_ms: int, pod: str, is_scheduled: bool) -> DeliveryState:
    """Return the state that a delivery has by its row alone."""
    stage = "scheduled" if is_scheduled else "pending"
    return DeliveryState(stage=stage, run=FIRST_RUN, attempt=0, attempts=0, at_ms=at_ms, pod=pod)


def is_final(channel: str, stage: str, detail: str | None = None) -> bool:
    """Say whether nothing more is due by itself; a later success or run may still raise it."""
    if channel == "ws":
        return stage in _FINAL_OF_WS or (stage == "sent" and detail == NO_ACKS)
    return stage in _FINAL_OF_OTHERS


def message_state(deliveries: Iterable[tuple[str, str, str | None]]) -> str:
    """Derive a message's state from (channel, stage, detail) of its deliveries.

    `dead` when one is dead, else `done` when all are final, `scheduled` when all wait for their
    time, else `pending`. A message without deliveries is `done`.
    """
    all_of_it = list(deliveries)
    stages = [stage for _, stage, _ in all_of_it]
    if "dead" in stages:
        return "dead"
    if all(is_final(*delivery) for delivery in all_of_it):
        return "done"
    return "scheduled" if all(stage == "scheduled" for stage in stages) else "pending"


def _order(state: DeliveryState) -> tuple[int, str, int, int, int, str, str, str, int]:
    return (
        _SUCCESS.get(state.stage, 0),
        state.run,
        state.attempt,
        _RANK[state.stage],
        state.at_ms,
        state.pod,
        state.reason or "",
        state.detail or "",
        -1 if state.due_ms is None else state.due_ms,
    )
