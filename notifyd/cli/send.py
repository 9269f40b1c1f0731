"""`notifyd send`: put messages on the topic, and where asked wait for their end."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async
from notifyd.errors import ConfigError, NotifydError

if TYPE_CHECKING:
    from notifyd.producer import Confirmation
    from notifyd.settings import Settings

#: How long `--wait` waits for the final state.
WAIT_S: Final = 30.0
_SENDER: Final = "notifyd-cli"
_CHUNK_BYTES: Final = 1 << 20


def send(
    *,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|-]", help="Envelopes to send: one, or one a line; -: standard input."),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="USER", help="Whom; repeat for more.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title.")] = None,
    body: Annotated[str | None, typer.Option("--body", help="Text.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="What kind of message, as order.shipped.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="Data for the client.")] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="A way out; repeat for more. Default: ws.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Call this URL too (channel webhook).")
    ] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option("--webhook-secret", metavar="SECRET", help="Sign the call with it, as whsec_..."),
    ] = None,
    sender: Annotated[str, typer.Option("--from", help="The sending system.")] = _SENDER,
    ttl: Annotated[str | None, typer.Option("--ttl", help="Expires after, as 30s, 15m, 2h.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="UUID", help="Id; default: a new one.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Kafka key, where order matters.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the final state: 0 good, 1 dead or 30 s over.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a message.")] = False,
) -> None:
    """Send a message; print its id and position once the broker has it.

    Either describe one with options, or give whole envelopes in a file or on standard input (one
    JSON document, or one a line).

    Examples:

        notifyd send --to alice --title Hi --wait

        notifyd send --to alice --title Hi --channel webhook --webhook https://example.org/hook

        notifyd send - < envelopes.ndjson
    """
    parts = {"title": title, "body": body, "type": type_, "ttl": _ttl(ttl), "id": id_}
    given = [name for name, value in parts.items() if value is not None]
    if source is not None and (to or given or data or channel or webhook):
        raise ConfigError(
            "a FILE holds whole envelopes, it does not go with --to, --title and the like",
            reason="usage",
            remedy="`notifyd send --help` has examples",
        )
    if source is None and not to:
        raise ConfigError(
            "to whom?", reason="usage", remedy="e.g. notifyd send --to alice --title Hi, or notifyd send FILE"
        )
    settings = read_settings()
    if wait and settings.database_url is None:
        raise ConfigError(
            "--wait reads the message's life from the database",
            reason="no_database",
            remedy="set NOTIFYD_DATABASE_URL, or run `notifyd dev` in this folder",
        )
    if source is None:
        assert to is not None
        contacts = _contacts(to, webhook, webhook_secret)
        channels = channel
        if webhook is not None and "webhook" not in (channel or []):
            channels = [*(channel or ["ws"]), "webhook"]
        message = {
            **parts,
            "to": to,
            "data": _data(data),
            "channels": channels,
            "contacts": contacts,
            "sender": sender,
            "created_by": _SENDER,
            "key": key,
        }
        chunks: Iterator[list[tuple[str, dict[str, Any]]]] = iter([[("", message)]])
    else:
        chunks = ([(where, {"envelope": raw, "key": key}) for where, raw in chunk] for chunk in _read(source))
    if not run_async(_send(settings, chunks, wait=wait, as_json=as_json)):
        raise typer.Exit(1)


async def _send(
    settings: Settings,
    chunks: Iterator[list[tuple[str, dict[str, Any]]]],
    *,
    wait: bool,
    as_json: bool,
) -> bool:
    """Send chunk by chunk, as the input comes; true: all are confirmed, and with `wait` good."""
    from notifyd.cli.background import in_background
    from notifyd.cli.waiting import wait_for_end
    from notifyd.producer import Notifier
    from notifyd.stream.clients import probe_broker

    is_good = True
    awaited: list[Confirmation] = []
    await probe_broker(settings)  # a person wants to know now, not after the producer's patience
    async with Notifier(settings, sender=_SENDER, client_id="notifyd-send") as notifier:
        async for chunk in in_background(chunks):
            results = await notifier.send_many([message for _, message in chunk])
            confirmed: list[Confirmation] = []
            for (where, _), result in zip(chunk, results, strict=True):
                if not isinstance(result, NotifydError):
                    confirmed.append(result)
                elif len(chunk) == 1 and not where:
                    raise result
                else:
                    is_good = False
                    note(f"notifyd: {where}: {result}")
            if wait:
                awaited += confirmed
                continue
            for item in confirmed:
                if as_json:
                    emit_json({"id": item.id, "position": item.position})
                else:
                    emit(f"{item.id} {item.position}")
    if awaited:
        is_good &= await wait_for_end(settings, awaited, as_json=as_json, limit_s=WAIT_S)
    return is_good


def _read(source: str) -> Iterator[list[tuple[str, bytes]]]:
    """Yield (where, envelope) in chunks, as soon as they can be read: lines, or one whole document."""
    if source == "-":
        # A reader of our own: Python takes the lock of `sys.stdin` at its end, and after Ctrl-C a thread
        # may still hold that in a read.
        yield from _split(io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False)))
        return
    try:
        with Path(source).open("rb") as file:
            yield from _split(file)
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be read: {error.strerror}", reason="usage", remedy="name a file, or - for stdin"
        ) from error


def _split(file: BinaryIO) -> Iterator[list[tuple[str, bytes]]]:
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    if not first:
        raise ConfigError("nothing to send: the input is empty", reason="usage")
    if not _is_document(first):
        # No JSON ends with this line: it is one document over several lines, or broken as a whole.
        yield [("", first + file.read())]
        return
    number, rest, line = 1, b"", first
    lines = [line]
    while True:
        chunk = []
        for line in lines:
            if line.strip():
                chunk.append((f"line {number}", line.strip()))
            number += 1
        if chunk:
            yield chunk
        # What is there now, not what will be: the other end of a pipe may be waiting for us.
        block = getattr(file, "read1", file.read)(_CHUNK_BYTES)
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
    if rest.strip():
        yield [(f"line {number}", rest.strip())]


def _is_document(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _contacts(to: list[str], webhook: str | None, secret: str | None) -> dict[str, Any] | None:
    if webhook is None:
        if secret is not None:
            raise ConfigError("--webhook-secret signs a call to --webhook URL", reason="usage")
        return None
    target = {"url": webhook} if secret is None else {"url": webhook, "secret": secret}
    return {user: {"userId": user, "webhook": [target]} for user in to}


def _data(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"--data is no JSON: {error}", reason="usage", remedy="""e.g. --data '{"order": 7}'"""
        ) from None


def _ttl(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
