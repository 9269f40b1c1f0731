"""How a life is drawn."""

from __future__ import annotations

import datetime as dt
import io

import pytest
from rich.console import Console

from notifyd.cli.timeline import clean, draw, gap
from notifyd.store.trace import DeliveryLife, MessageLife, Moment, visible_envelope


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
