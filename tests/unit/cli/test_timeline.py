"""How a life is drawn."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pytest
from rich.console import Console

from notifyd.cli.timeline import clean, draw, gap
from notifyd.store.life import DeliveryLife, MessageLife, Moment
from notifyd.store.trace import visible_envelope


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0124, "+12 ms"), (1.5, "+1.5 s"), (180, "+3 min"), (7200, "+2.0 h"), (-0.003, "-3 ms")],
)
def test_gaps_are_written_for_people(seconds: float, text: str) -> None:
    assert gap(seconds) == text


def test_foreign_text_cannot_drive_the_terminal_or_the_markup() -> None:
    assert clean("a\x1b[31m\nb") == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b"
    at = dt.datetime(2026, 11, 23, 10, tzinfo=dt.UTC)
    life = MessageLife(
        id="019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        state="pending",
        envelope={"from": "[red]x", "toUserIds": ["[/]", "\x1b]0;t\x07"], "content": {"title": "[bold]"}},
        position="0:1",
        deliveries=(
            DeliveryLife(
                "[/]", "ws", "sent", 1, False, None, None, None, None, (Moment("sent", at, "[/a]", 1),)
            ),
        ),
        moments=(Moment("accepted", at),),
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(draw(life))
    text = console.export_text()
    for part in ("[red]x", "[/a]", "[bold]", "waits for the client to acknowledge"):
        assert part in text
    assert "\x1b]0" not in text


def test_contacts_are_left_out_and_nothing_else() -> None:
    raw = b'{"UUID": "x", "content": {"contacts": {"a": {"secret": 1}}, "data": {"contacts": 1}}, "extra": 2}'
    assert visible_envelope(raw) == {"UUID": "x", "content": {"data": {"contacts": 1}}, "extra": 2}


AT = dt.datetime(2026, 11, 23, 10, tzinfo=dt.UTC)


def _delivery(channel: str, state: str, *moments: Moment, attempts: int = 1, **more: Any) -> DeliveryLife:
    facts: dict[str, Any] = {"is_final": False, "next_check_at": AT, "due_at": None, "reason": None, **more}
    return DeliveryLife("alice", channel, state, attempts, detail=None, moments=moments, **facts)


def _draw(life: MessageLife, *, is_ascii: bool = False) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(draw(life, is_ascii=is_ascii))
    return console.export_text()


@pytest.mark.parametrize(
    ("delivery", "waits_for", "unknown"),
    [
        (
            _delivery("ws", "pending", attempts=0),
            "the ws processes to say whether the user is there",
            ("sent", "acked"),
        ),
        (_delivery("ws", "sent", Moment("sent", AT)), "the client to acknowledge", ("acked",)),
        (_delivery("ws", "acked", Moment("acked", AT), is_final=True), None, ("sent",)),
        (_delivery("ws", "stored", Moment("stored", AT), is_final=True), None, ()),
        (_delivery("email", "scheduled", attempts=0), "its time (notBefore)", ()),
        (
            _delivery("email", "pending", attempts=0),
            "an outcome, or the sweep to look after it",
            ("outcome",),
        ),
        (
            _delivery("email", "pending", attempts=0, reason="fallback"),
            "the user to see the message on another channel",
            ("outcome",),
        ),
        (
            _delivery("email", "retry_wait", Moment("retry_wait", AT, attempt=2), attempts=2),
            "attempt 3",
            ("attempt 1",),
        ),
        (_delivery("email", "sent", Moment("sent", AT, attempt=1), is_final=True), None, ()),
    ],
)  # fmt: skip
def test_what_is_open_says_what_it_waits_for_and_what_nobody_told(
    delivery: DeliveryLife, waits_for: str | None, unknown: tuple[str, ...]
) -> None:
    wait = delivery.waits_for
    assert (None if wait is None else wait.what) == waits_for
    assert delivery.unknown == unknown


def test_an_acknowledgement_is_waited_for_no_longer_than_a_day_after_the_push() -> None:
    wait = _delivery("ws", "sent", Moment("sent", AT)).waits_for
    assert wait is not None
    assert wait.until == AT + dt.timedelta(days=1)


def test_each_delivery_shows_where_in_the_whole_life_its_stages_were() -> None:
    later = AT + dt.timedelta(seconds=10)
    life = MessageLife(
        "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11",
        "pending",
        {"from": "orders", "toUserIds": ["alice"], "content": {}},
        "0:1",
        (
            _delivery("ws", "acked", Moment("sent", AT, "ws-0"), Moment("acked", AT, "ws-0"), is_final=True),
            _delivery("email", "sent", Moment("sent", later, attempt=2), attempts=2, is_final=True),
            _delivery("webhook", "retry_wait", Moment("retry_wait", AT, attempt=1), due_at=later),
        ),
        (Moment("accepted", AT),),
    )
    pushed, mailed, called = (line for line in _draw(life).splitlines() if " by " in line)
    assert pushed.split()[-1] == "●"
    assert mailed.endswith("─●")
    assert called.rstrip().endswith("┄")
    assert "waits for attempt 2, until" in _draw(life)
    assert "not known: attempt 1" in _draw(life)
    _draw(life, is_ascii=True).encode("ascii")


def test_what_is_not_stored_yet_says_what_is_not_known() -> None:
    life = MessageLife(
        "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", "unknown", None, None, (), (Moment("read", AT),)
    )
    assert "not known: accepted, persisted" in _draw(life)
