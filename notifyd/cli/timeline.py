"""A message's life, drawn for a terminal: what happened when, by which pod, and the gaps between."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from notifyd.store.life import DeliveryLife, MessageLife, Moment

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
#: Cells of the line that shows when in the message's life something happened.
_BAR_CELLS: Final = 30
#: Wide enough for `retry_wait` and the names of most pods; longer ones push the rest aside.
_STAGE_CELLS: Final = 10
_POD_CELLS: Final = 12


@dataclass(frozen=True, slots=True)
class _Signs:
    """What lines are drawn with."""

    branch: str
    end: str
    open: str
    line: str
    ahead: str
    dot: str


_DRAWN: Final = _Signs("├", "└", "┊", "─", "┄", "●")
_ASCII: Final = _Signs("|", "`", ":", "-", ".", "o")


def draw(life: MessageLife, *, is_ascii: bool = False) -> RenderableType:
    """Draw a life: a head, the message's own stages, then one block per recipient and channel."""
    signs = _ASCII if is_ascii else _DRAWN
    lines: list[RenderableType] = [*_head(life), _moments(life.moments, None, signs, is_open=False)]
    names = [f"{clean(one.user)} by {clean(one.channel)}:" for one in life.deliveries]
    sizes = [len(name) + len(one.state) for name, one in zip(names, life.deliveries, strict=True)]
    begin = min((moment.at for moment in life.moments), default=None)
    user = None
    for name, size, delivery in zip(names, sizes, life.deliveries, strict=True):
        if delivery.user != user:  # what is one person's stands together
            lines.append(Text(""))
            user = delivery.user
        pad = " " * (max(sizes) - size + 2)
        bar = _bar(delivery, life, signs)
        lines.append(Text.assemble((name, "bold"), " ", _coloured(delivery.state), pad, bar))
        lines.append(_moments(delivery.moments, begin, signs, is_open=not delivery.is_final))
        lines += _open_ends(delivery, signs)
    return Group(*lines)


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


def time_of_day(at: dt.datetime | None) -> str:
    """Write a time (UTC) for people, with its day where that is not today."""
    if at is None:
        return ""
    text = at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return text if at.date() != dt.datetime.now(dt.UTC).date() else text[11:]


def _head(life: MessageLife) -> Iterator[Text]:
    first = Text.assemble((life.id, "bold"), "  ", _coloured(life.state))
    if life.span is not None and life.is_final:
        first.append(f" within {gap((life.span[1] - life.span[0]).total_seconds())[1:]}")
    yield first
    envelope = life.envelope
    if envelope is None and not life.unknown:
        yield Text("what it said is gone: all whom it was for were forgotten", style="dim")
        return
    if envelope is None:
        yield Text(f"not stored yet; not known: {', '.join(life.unknown)}, all recipients", style="yellow")
        return
    content = envelope.get("content")
    title = content.get("title") if isinstance(content, dict) else None
    users = envelope.get("toUserIds") or []
    shown = ", ".join(clean(user) for user in users[:5])
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    ends = "" if life.expires_at is None else f", expires {time_of_day(life.expires_at)}"
    yield Text(f"from {clean(envelope.get('from'))} to {shown}{more}, at {life.position}{ends}", style="dim")
    if title:
        yield Text(clean(title))


def _bar(delivery: DeliveryLife, life: MessageLife, signs: _Signs) -> Text:
    """Draw the message's whole life from left to right, and on it what happened to this delivery."""
    if life.span is None or not delivery.moments:
        return Text("")
    begin, end = life.span
    span_s = (end - begin).total_seconds()

    def cell(at: dt.datetime) -> int:
        return round((at - begin).total_seconds() / span_s * (_BAR_CELLS - 1)) if span_s else 0

    last = _BAR_CELLS - 1 if not delivery.is_final else cell(max(moment.at for moment in delivery.moments))
    seen = cell(max(moment.at for moment in delivery.moments))
    cells = [(signs.line if n <= seen else signs.ahead, "dim") for n in range(last + 1)]
    for moment in delivery.moments:
        cells[cell(moment.at)] = (signs.dot, _COLOURS.get(moment.stage, ""))
    return Text.assemble(*cells)


def _moments(moments: Sequence[Moment], before: dt.datetime | None, signs: _Signs, *, is_open: bool) -> Table:
    """List stages, a line each; what does not fit into the width goes on below itself."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=_STAGE_CELLS)
    table.add_column(min_width=_POD_CELLS, overflow="fold")
    table.add_column(overflow="fold")
    for number, moment in enumerate(moments, 1):
        since = "" if before is None else gap((moment.at - before).total_seconds())
        said = [clean(part) for part in (moment.reason, moment.detail) if part]
        if moment.attempt > 1 or moment.stage in ("attempting", "retry_wait"):
            said.insert(0, f"attempt {moment.attempt}")
        if moment.due_at is not None:
            said.append(f"due {time_of_day(moment.due_at)}")
        sign = signs.end if number == len(moments) and not is_open else signs.branch
        table.add_row(
            Text.assemble(f"  {sign} ", (f"{time_of_day(moment.at)} {since:>8}", "dim")),
            _coloured(moment.stage),
            # As Text, or what is in brackets would be taken for markup.
            Text(clean(moment.pod or ("Kafka" if moment.stage == "accepted" else ""))),
            Text(", ".join(said)),
        )
        before = moment.at
    return table


def _open_ends(delivery: DeliveryLife, signs: _Signs) -> Iterator[Text]:
    """Say what it waits for and until when, and what nobody has told of yet."""
    if delivery.waits_for is not None:
        until = "" if delivery.waits_for.until is None else f", until {time_of_day(delivery.waits_for.until)}"
        yield Text(f"  {signs.open} waits for {delivery.waits_for.what}{until}", style="yellow")
    if delivery.unknown:
        yield Text(f"  {signs.open} not known: {', '.join(delivery.unknown)}", style="dim")


def _coloured(stage: str) -> Text:
    return Text(clean(stage), style=_COLOURS.get(stage, ""))
