"""What the commands on dead letters have in common: which of them are meant."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from notifyd.stream.replay import Selection

JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]
ChannelOption = Annotated[str | None, typer.Option("--channel", help="Only those of this channel.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only those of this recipient.")]
SenderOption = Annotated[str | None, typer.Option("--sender", help="Only those from this sender.")]
IdOption = Annotated[str | None, typer.Option("--id", help="Only those of this message.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Died at or after: RFC 3339, or so long ago, such as 2h.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Died before: as --since.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")]
AllOption = Annotated[bool, typer.Option("--all", help="Those too that were replayed or discarded before.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
ActorOption = Annotated[
    str | None, typer.Option("--actor", help="On whose order, for the audit. Default: who runs this.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def takes_selection(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `read_selection` in the place of its parameter `selection`."""
    # Only type checkers import `Selection`: `--help` must not wait for the broker's client.
    own = inspect.signature(command, eval_str=True, locals={"Selection": object}).parameters
    options = inspect.signature(read_selection, eval_str=True, locals={"Selection": object}).parameters
    shown: list[inspect.Parameter] = []
    for name, parameter in own.items():
        shown += options.values() if name == "selection" else [parameter]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        command(selection=read_selection(**chosen), **given)

    # Typer reads both, and would follow the way back to the command.
    del run.__wrapped__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    )
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def read_selection(  # noqa: PLR0917  what the command line takes
    reason: ReasonOption = None,
    channel: ChannelOption = None,
    user: UserOption = None,
    sender: SenderOption = None,
    message_id: IdOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> Selection:
    """Read what the options say; raises `ConfigError` for a time that is none."""
    from notifyd.stream.replay import Selection

    return Selection(
        reason=reason,
        channel=channel,
        user=user,
        sender=sender,
        message_id=message_id,
        since_ms=_moment_ms("--since", since),
        until_ms=_moment_ms("--until", until),
    )


def _moment_ms(option: str, text: str | None) -> int | None:
    from notifyd.errors import ConfigError
    from notifyd.message.times import parse_duration_s, parse_time_ms

    if text is None:
        return None
    at_ms = parse_time_ms(text)
    ago_s = parse_duration_s(text) if at_ms is None else None
    if at_ms is None and ago_s is None:
        raise ConfigError(
            f"{option} {text!r} is no time", reason="usage", remedy="such as 2h, or 2026-11-23T10:00:00Z"
        )
    return at_ms if ago_s is None else int((time.time() - ago_s) * 1000)
