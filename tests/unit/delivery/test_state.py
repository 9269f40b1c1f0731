"""The merge of events into a delivery's state: order and repetition must not matter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.delivery.event import INBOX_STAGES, STAGES, Event
from notifyd.delivery.state import NO_ACKS, DeliveryState, initial, is_final, join, merge, message_state

_EVENTS = st.builds(
    Event,
    id=st.just("019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11"),
    day=st.just("2025-11-22"),
    digest=st.just(""),
    user=st.just("alice"),
    channel=st.just("ws"),
    stage=st.sampled_from([*STAGES, *INBOX_STAGES, "from_the_future"]),
    at=st.integers(0, 3),
    pod=st.sampled_from(["a", "b"]),
    run=st.sampled_from(["", "019aab3e", "019aab3f"]),
    attempt=st.integers(0, 3),
    due=st.none() | st.integers(0, 2),
    reason=st.none() | st.sampled_from(["", "timeout"]),
    detail=st.none() | st.sampled_from([NO_ACKS, "HTTP 500"]),
)


def _event(stage: str, *, run: str = "", attempt: int = 1, at: int = 1) -> Event:
    return Event(
        id="019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        day="2025-11-22",
        digest="",
        user="alice",
        channel="webhook",
        stage=stage,
        at=at,
        pod="a",
        run=run,
        attempt=attempt,
    )


def _fold(events: Sequence[Event]) -> DeliveryState | None:
    state = None
    for event in events:
        state = merge(state, event)
    return state


@given(st.data(), st.lists(_EVENTS, max_size=8))
def test_any_order_and_any_repetition_end_the_same(data: st.DataObject, events: list[Event]) -> None:
    shuffled = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events or [None])))))
    assert _same(_fold(events), _fold([event for event in shuffled if event is not None]))


@given(st.lists(_EVENTS, max_size=5), st.lists(_EVENTS, max_size=5))
def test_two_halves_merged_apart_join_to_the_whole(one: list[Event], other: list[Event]) -> None:
    left, right = _fold(one), _fold(other)
    if left is None or right is None:
        assert _same(left or right, _fold(one + other))
    else:
        assert _same(join(left, right), _fold(one + other))
        assert _same(join(right, left), _fold(one + other))


def _same(one: DeliveryState | None, other: DeliveryState | None) -> bool:
    """Compare as the database stores them: an absent reason and an empty one are told alike."""

    def plain(state: DeliveryState | None) -> object:
        return state and (
            state.stage,
            state.run,
            state.attempt,
            state.attempts,
            state.at_ms,
            state.pod,
            state.due_ms,
            state.reason or "",
            state.detail or "",
        )

    return plain(one) == plain(other)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        (_event("dead", attempt=8), _event("sent", attempt=1)),
        (_event("dead", run="9", attempt=8), _event("acked", attempt=1)),
        (_event("sent", run="9", attempt=8), _event("acked", attempt=1)),
        (_event("dead", attempt=8), _event("attempting", run="1", attempt=1)),
        (_event("retry_wait", attempt=1), _event("attempting", attempt=2)),
        (_event("attempting", attempt=2), _event("retry_wait", attempt=2)),
        (_event("stored", attempt=0), _event("sent", attempt=1)),
    ],
)
def test_success_beats_runs_beat_attempts_beat_stages(lower: Event, higher: Event) -> None:
    for events in ([lower, higher], [higher, lower]):
        state = _fold(events)
        assert state is not None
        assert state.stage == higher.stage
        assert state.attempts == max(lower.attempt, higher.attempt)


@pytest.mark.parametrize("stage", [*INBOX_STAGES, "from_the_future"])
def test_stages_of_the_inbox_and_unknown_ones_move_nothing(stage: str) -> None:
    state = initial(at_ms=1, pod="p", is_scheduled=False)
    assert merge(state, _event(stage)) is state
    assert merge(None, _event(stage)) is None


def test_a_ws_delivery_ends_with_the_ack_or_where_none_is_asked_for_and_others_with_the_sending() -> None:
    assert is_final("ws", "acked")
    assert is_final("ws", "stored")
    assert not is_final("ws", "sent")
    assert is_final("ws", "sent", NO_ACKS)
    assert is_final("webhook", "sent")
    assert not is_final("webhook", "retry_wait")


@pytest.mark.parametrize(
    ("deliveries", "state"),
    [
        ([], "done"),
        ([("ws", "acked", None), ("webhook", "sent", None)], "done"),
        ([("ws", "sent", None), ("webhook", "sent", None)], "pending"),
        ([("ws", "pending", None), ("webhook", "dead", None)], "dead"),
        ([("ws", "scheduled", None), ("webhook", "scheduled", None)], "scheduled"),
        ([("ws", "acked", None), ("webhook", "scheduled", None)], "pending"),
        ([("ws", "stored", None)], "done"),
    ],
)
def test_the_state_of_a_message_follows_its_deliveries(
    deliveries: list[tuple[str, str, str | None]], state: str
) -> None:
    assert message_state(deliveries) == state
