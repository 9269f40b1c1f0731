"""A message's life, drawn for a terminal: what happened when, by which pod, and the gaps between."""

from __future__ import annotations

import datetime as dt
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from notifyd.store.trace import DeliveryLife, MessageLife, Moment

_COLOURS: Final = {
    "done": "green",
    "acked": "green",
    "sent": "green",
    "seen": "green",
    "read": "green",
    "stored": "cyan",
    "dead": "red",
    "failed": "red",
    "expired": "yellow",
    "skipped": "yellow",
    "retry_wait": "yellow",
    "scheduled": "cyan",
}


def draw(life: MessageLife) -> RenderableType:
    """Draw a life: a head, the message's own stages, then one block per recipient and channel."""
    blocks: list[RenderableType] = [_head(life)]
    start = min((moment.at for moment in life.moments), default=None)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    _add_moments(table, life.moments, None)
    for delivery in life.deliveries:
        table.add_row("", "", "", "", "")
        title = Text.assemble(
            (clean(delivery.user), "bold"), f" by {clean(delivery.channel)}: ", _coloured(delivery.state)
        )
        table.add_row(title, "", "", "", Text(_waits_for(delivery), style="dim"))
        _add_moments(table, delivery.moments, start)
    blocks.append(table)
    return Group(*blocks)


def clean(text: object) -> str:
    """Make foreign text safe to print: no control characters, which could drive the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def gap(seconds: float) -> str:
    """Write a span for people: `+12 ms`, `+1.5 s`, `+3 min`; clocks of pods may make it negative."""
    sign, span = ("+", seconds) if seconds >= 0 else ("-", -seconds)
    if span < 1:
        return f"{sign}{span * 1000:.0f} ms"
    if span < 60:
        return f"{sign}{span:.1f} s"
    if span < 5400:
        return f"{sign}{span / 60:.0f} min"
    return f"{sign}{span / 3600:.1f} h"


def _head(life: MessageLife) -> Text:
    head = Text.assemble((life.id, "bold"), "  ", _coloured(life.state))
    envelope = life.envelope
    if envelope is None:
        head.append("\nits events are here, the message itself is not stored yet", style="dim")
        return head
    content = envelope.get("content")
    title = content.get("title") if isinstance(content, dict) else None
    users = envelope.get("toUserIds") or []
    shown = ", ".join(clean(user) for user in users[:5])
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    head.append(f"\nfrom {clean(envelope.get('from'))} to {shown}{more}, at {life.position}", style="dim")
    if title:
        head.append(f"\n{clean(title)}")
    return head


def _add_moments(table: Table, moments: tuple[Moment, ...], before: dt.datetime | None) -> None:
    for moment in moments:
        since = "" if before is None else gap((moment.at - before).total_seconds())
        said = [clean(part) for part in (moment.reason, moment.detail) if part]
        if moment.attempt > 1 or moment.stage in ("attempting", "retry_wait"):
            said.insert(0, f"attempt {moment.attempt}")
        if moment.due_at is not None:
            said.append(f"due {_time(moment.due_at)}")
        table.add_row(
            Text(f"  {_time(moment.at)}", style="dim"),
            Text(since, style="dim"),
            _coloured(moment.stage),
            # As Text, or what is in brackets would be taken for markup.
            Text(clean(moment.pod or ("Kafka" if moment.stage == "accepted" else ""))),
            Text(", ".join(said)),
        )
        before = moment.at


def _waits_for(delivery: DeliveryLife) -> str:
    if delivery.is_final:
        return ""
    if delivery.state == "scheduled" and delivery.next_check_at is not None:
        return f"waits for {_time(delivery.next_check_at)}"
    if delivery.state == "retry_wait" and delivery.due_at is not None:
        return f"next attempt {_time(delivery.due_at)}"
    if delivery.channel == "ws":
        whom = "the client to acknowledge" if delivery.state == "sent" else "the user to connect"
        return f"waits for {whom}"
    return "waits for an outcome"


def _coloured(stage: str) -> Text:
    return Text(clean(stage), style=_COLOURS.get(stage, ""))


def _time(at: dt.datetime | None) -> str:
    if at is None:
        return ""
    text = at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return text if at.date() != dt.datetime.now(dt.UTC).date() else text[11:]
