"""`notifyd dlq`: what could not be delivered, why, and what is to become of it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from notifyd.cli import dlq_work
from notifyd.cli.dlq_options import LimitOption, takes_selection
from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings
    from notifyd.stream.replay import Selection

app = typer.Typer(
    help="Look into the dead-letter queue, and give what is there another chance.",
    no_args_is_help=True,
    add_completion=False,
)

app.command("replay")(dlq_work.replay)
app.command("discard")(dlq_work.discard)

#: Of how many letters the audit is asked at a time.
_ASKED_AT_ONCE: Final = 1000


@app.command("ls")
@takes_selection
def ls(
    selection: Selection,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --json: the original bytes too, as value_base64.")
    ] = False,
    limit: LimitOption = None,
) -> None:
    """List the dead letters: reason, id, where the record stood, who it was for.

    Reads the DLQ from its start to the end it has now; changes nothing. What was replayed or discarded is
    listed too: it stays on the topic until its retention ends.

    Examples:

        notifyd dlq ls --reason too_large

        notifyd dlq ls --json --raw | jq -r 'select(.id != null) | .id'
    """
    settings = read_settings()
    from contextlib import aclosing

    from notifyd.stream.dead_letter import read_dead_letters
    from notifyd.stream.dead_letter_view import describe

    async def work() -> int:
        count = 0
        async with aclosing(read_dead_letters(settings, since_ms=selection.since_ms)) as letters:
            async for letter in letters:
                if not selection.takes(letter):
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
        note(_nothing(selection))


def _nothing(selection: Selection) -> str:
    """Say that none was found, and whether that is because of what was asked for."""
    asks_for_all = all(value is None for value in astuple(selection))
    return "the DLQ is empty" if asks_for_all else "no dead letter in the DLQ is like that"


@app.command("show")
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Its place, as ls tells.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Print one dead letter: why, whence, its headers and its message, and what was done with it.

    Addresses and secrets in `content.contacts` are left out. The audit is shown where
    NOTIFYD_DATABASE_URL is set.

    Example: notifyd dlq show 3:1842
    """
    from notifyd.errors import ConfigError, PermanentError
    from notifyd.stream.dead_letter import find_dead_letters
    from notifyd.stream.dead_letter_view import describe_whole

    settings = read_settings()
    numbers = place.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"{place!r} is no place", reason="usage", remedy="PARTITION:OFFSET, as in 3:1842")
    partition, offset = map(int, numbers)
    found = run_async(find_dead_letters(settings, [(partition, offset)]))
    if not found:
        raise PermanentError(
            f"there is no dead letter at {place}", reason="no_dead_letter", remedy="notifyd dlq ls"
        )
    item = {
        **describe_whole(found[0]),
        "audit": run_async(dlq_work.read_entries(settings, partition, offset)),
    }
    if as_json:
        emit_json(item)
        return
    for name, value in item.items():
        if name != "audit" and value is not None:
            emit(f"{name:<10} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    for entry in item["audit"] or ():
        emit(f"{entry['action']:<10} {entry['at']} by {entry['actor']}")


@app.command("stats")
@takes_selection
def stats(
    selection: Selection,
    by: Annotated[str, typer.Option("--by", help="reason, channel, sender or user.")] = "reason",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Count the dead letters: how many of each reason, since when, until when.

    Where NOTIFYD_DATABASE_URL is set, `open` counts those that nothing was done with.

    Example: notifyd dlq stats --by sender --since 24h
    """
    from notifyd.errors import ConfigError
    from notifyd.stream.dead_letter_view import COUNTED_BY

    if by not in COUNTED_BY:
        raise ConfigError(f"--by {by!r} is not known", reason="usage", remedy="one of them")
    settings = read_settings()
    rows = run_async(_count(settings, selection, by))
    if as_json:
        for row in rows:
            emit_json(row)
        return
    if not rows:
        note(_nothing(selection))
        return
    width = max(len(str(row[by] or "-")) for row in rows)
    emit(f"{by:<{width}}  {'letters':>9}  {'open':>9}  {'first':<24}  last")
    for row in rows:
        is_open = "-" if row["open"] is None else row["open"]
        span = f"{row['first_at']}  {row['last_at']}"
        emit(f"{row[by] or '-':<{width}}  {row['letters']:>9}  {is_open:>9}  {span}")


@app.command("export")
@takes_selection
def export(
    selection: Selection,
    file: Annotated[Path, typer.Argument(help="Where to; - for standard output.")],
    limit: LimitOption = None,
) -> None:
    """Write dead letters to a file, one JSON object a line, with the original bytes and headers as base64.

    The file holds addresses and secrets where messages did: only its owner may read it.

    Example: notifyd dlq export dead.jsonl --since 7d
    """
    settings = read_settings()
    count = run_async(_export(settings, selection, file, limit))
    note(f"{count} dead letters written")


async def _count(settings: Settings, selection: Selection, by: str) -> list[dict[str, Any]]:
    from contextlib import aclosing

    from notifyd.stream.dead_letter import read_dead_letters
    from notifyd.stream.dead_letter_view import Count

    count = Count(by)
    async with dlq_work.audit_of(settings) as audit:

        async def settle() -> None:
            count.settle(None if audit is None else await audit.handled(count.places))

        async with aclosing(read_dead_letters(settings, since_ms=selection.since_ms)) as letters:
            async for letter in letters:
                if not selection.takes(letter):
                    continue
                count.add(letter)
                if len(count.places) >= _ASKED_AT_ONCE:
                    await settle()
        await settle()
    return [{by: row.pop("name"), **row} for row in count.rows()]


async def _export(settings: Settings, selection: Selection, file: Path, limit: int | None) -> int:
    from contextlib import aclosing

    from notifyd.stream.dead_letter import read_dead_letters
    from notifyd.stream.dead_letter_view import describe

    count = 0
    with _opened(file) as out:
        async with aclosing(read_dead_letters(settings, since_ms=selection.since_ms)) as letters:
            async for letter in letters:
                if not selection.takes(letter):
                    continue
                item = describe(letter, with_value=True)
                item["key_base64"] = None if letter.key is None else base64.b64encode(letter.key).decode()
                item["headers"] = [[name, base64.b64encode(data).decode()] for name, data in letter.headers]
                out.write(json.dumps(item, ensure_ascii=False) + "\n")
                count += 1
                if count == limit:
                    break
    return count


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    from notifyd.errors import ConfigError

    if str(file) == "-":
        yield sys.stdout
        return
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", reason="usage") from None
    with os.fdopen(number, "w", encoding="utf-8") as out:
        yield out


def _line(item: dict[str, Any]) -> str:
    whom = f" {item['channel']}:{item['user']}" if item["channel"] or item["user"] else ""
    where = f"{item['topic']} {item['partition']}:{item['offset']}"
    attempts = f" after {item['attempts']} attempts" if item["attempts"] else ""
    error = " ".join(item["error"].split())
    place = f"{item['place']} {item['first_at']}"
    return f"{place} {item['reason']} {item['id'] or '-'} {where}{whom}{attempts}  {error}"
