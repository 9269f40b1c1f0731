"""`notifyd dlq ls`: what could not be delivered, and why."""

from __future__ import annotations

import base64
import datetime as dt
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.stream.dead_letter import DeadLetter

app = typer.Typer(help="Look into the dead-letter queue.", no_args_is_help=True, add_completion=False)

#: Finds the id of an envelope that is no JSON any more (cut off, a stray byte).
_ID: Final = re.compile(rb'"UUID"\s*:\s*"([0-9A-Fa-f-]{36})"')


@app.callback()
def _group() -> None:
    # With a callback typer keeps `ls` a subcommand while it is the only one.
    pass


@app.command("ls")
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --json: the original bytes too, as value_base64.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")] = None,
) -> None:
    """List the dead letters: reason, id, where the record stood, who it was for.

    Reads the DLQ from its start to the end it has now; changes nothing.

    Examples:

        notifyd dlq ls --reason too_large

        notifyd dlq ls --json --raw | jq -r 'select(.id != null) | .id'
    """
    settings = read_settings()
    from contextlib import aclosing

    from notifyd.stream.dead_letter import read_dead_letters

    async def work() -> int:
        count = 0
        async with aclosing(read_dead_letters(settings)) as letters:
            async for letter in letters:
                if reason is not None and letter.reason != reason:
                    continue
                count += 1
                item = describe(letter, with_value=raw)
                if as_json:
                    emit_json(item)
                else:
                    emit(_line(item))
                if count == limit:
                    break
        return count

    if run_async(work()) == 0 and not as_json:
        note("the DLQ is empty" if reason is None else f"no dead letter has the reason {reason}")


def describe(letter: DeadLetter, *, with_value: bool = False) -> dict[str, Any]:
    """Turn a dead letter into what `--json` prints: `topic`, `partition`, `offset` of the original record."""
    topic, partition, offset = letter.topic, letter.partition, letter.offset
    where = letter.position.rsplit("/", 2)
    if len(where) == 3 and where[1].isdigit() and where[2].isdigit():
        topic, partition, offset = where[0].split("/", 1)[-1], int(where[1]), int(where[2])
    first_at = letter.first_at_ms if letter.first_at_ms is not None else letter.timestamp_ms
    item: dict[str, Any] = {
        "reason": letter.reason,
        "error": letter.error,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "attempts": letter.attempts,
        "first_at": _iso(first_at),
        "id": _id_in(letter.value),
        "user": letter.user,
        "channel": letter.channel,
    }
    if with_value:
        item["value_base64"] = None if letter.value is None else base64.b64encode(letter.value).decode()
    return item


def _line(item: dict[str, Any]) -> str:
    whom = f" {item['channel']}:{item['user']}" if item["channel"] or item["user"] else ""
    where = f"{item['topic']} {item['partition']}:{item['offset']}"
    attempts = f" after {item['attempts']} attempts" if item["attempts"] else ""
    error = " ".join(item["error"].split())
    return f"{item['first_at']} {item['reason']} {item['id'] or '-'} {where}{whom}{attempts}  {error}"


def _iso(timestamp_ms: int) -> str:
    try:
        at = dt.datetime.fromtimestamp(timestamp_ms / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _id_in(value: bytes | None) -> str | None:
    import msgspec

    if not value:
        return None
    try:
        found = msgspec.json.decode(value)
        text = found.get("UUID") if isinstance(found, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        match = _ID.search(value)
        text = match.group(1).decode() if match else None
    return text if isinstance(text, str) else None
