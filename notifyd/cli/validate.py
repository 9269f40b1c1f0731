"""`notifyd validate`: everything that is wrong with envelopes, before a broker sees them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import emit, emit_json, read_settings
from notifyd.errors import ConfigError, InvalidMessage

if TYPE_CHECKING:
    from notifyd.message.envelope import Limits


@dataclass(frozen=True, slots=True)
class _Checked:
    """One envelope of the input: the line it starts on, its id where it can be told, its faults."""

    line: int
    id: str | None
    faults: list[InvalidMessage]


def validate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="One envelope, or one a line (NDJSON); -: standard input.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object an envelope.")] = False,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Judge dates as of this RFC 3339 time; default: now."),
    ] = None,
) -> None:
    """Tell everything that is wrong with an envelope: the field, the rule, what to do.

    Nothing is sent, and no broker is needed. Limits are those of the settings (`notifyd config`).
    Exit code 0: all good; 1: something is faulty; 2: the file cannot be read.

    Examples:

      notifyd validate envelope.json

      my-backend --dry-run | notifyd validate - --json
    """
    from notifyd.message.envelope import Limits

    limits = Limits.of(read_settings())
    at_ms = _moment_ms(at)
    count = faulty = 0
    for checked in _check(_read(file), at_ms, limits):
        count += 1
        faulty += bool(checked.faults)
        if as_json:
            emit_json(_as_object(checked))
        else:
            for fault in checked.faults:
                emit(_as_line(file, checked.line, fault))
    if not as_json:
        noun = "envelope" if count == 1 else "envelopes"
        emit(f"{count} {noun}, {faulty} faulty" if faulty else f"{count} {noun}, all good")
    if faulty:
        raise typer.Exit(1)


def _moment_ms(at: str | None) -> int:
    if at is None:
        return int(time.time() * 1000)
    from notifyd.message.times import parse_time_ms

    at_ms = parse_time_ms(at)
    if at_ms is None:
        remedy = "write it as 2026-11-23T10:00:00Z"
        raise ConfigError(f"--at {at} is not an RFC 3339 time", reason="usage", remedy=remedy)
    return at_ms


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError:
        text, remedy = f"there is no file {file}", "check its path; - reads standard input"
    except IsADirectoryError:
        text, remedy = f"{file} is a directory", "name a file in it"
    except OSError as error:
        text, remedy = f"{file} cannot be read: {error.strerror}", "check its permissions"
    raise ConfigError(text, reason="file_unreadable", remedy=remedy)


def _check(source: bytes, at_ms: int, limits: Limits) -> Iterator[_Checked]:
    from notifyd.delivery.contact import find_contact_faults
    from notifyd.message.envelope import find_faults

    for line, value in _envelopes(source):
        faults = find_faults(value, timestamp_ms=at_ms, limits=limits)
        told = {fault.field for fault in faults}
        faults += [fault for fault in find_contact_faults(value) if fault.field not in told]
        yield _Checked(line, _id_of(value), faults)


def _envelopes(source: bytes) -> Iterator[tuple[int, bytes]]:
    """Split the input: NDJSON into its lines, anything else is one envelope.

    It is NDJSON where it has several lines and one of them is an object by itself; an envelope
    printed over several lines has none such at the start of a line.
    """
    lines = [(number, text) for number, text in enumerate(source.split(b"\n"), 1) if text.strip()]
    if len(lines) > 1 and not _is_json(source) and any(t[:1] == b"{" and _is_json(t) for _, t in lines):
        yield from lines
    else:
        yield (lines[0][0] if lines else 1), source.strip()


def _is_json(text: bytes) -> bool:
    import msgspec

    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _id_of(value: bytes) -> str | None:
    import msgspec

    try:
        found = msgspec.json.decode(value, type=dict[str, msgspec.Raw]).get("UUID")
        return None if found is None else msgspec.json.decode(found, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _as_object(checked: _Checked) -> dict[str, Any]:
    faults = [
        {"field": f.field, "rule": f.rule, "reason": f.reason, "remedy": f.remedy} for f in checked.faults
    ]
    return {"line": checked.line, "id": checked.id, "ok": not faults, "faults": faults}


def _as_line(file: str, line: int, fault: InvalidMessage) -> str:
    """`orders.ndjson:3: toUserIds[1]: must be a string [bad_user_id]; write user ids as strings`."""
    where = "stdin" if file == "-" else file
    what = f"{fault.field}: {fault.rule}" if fault.field else fault.rule
    remedy = f"; {fault.remedy}" if fault.remedy else ""
    # Keys of the producer's may hold line breaks: one fault is one line all the same.
    return " ".join(f"{where}:{line}: {what} [{fault.reason}]{remedy}".split())
