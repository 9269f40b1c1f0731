"""`notifyd contacts set`, `show` and `rm`: where users are reached, as the contacts topic has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import check_user, emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.settings import Settings

app = typer.Typer(
    help="Set, show or remove where a user is reached.", no_args_is_help=True, add_completion=False
)

UserArgument = Annotated[str, typer.Argument(help="The user id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@app.command("set")
def set_(  # noqa: PLR0917  what the command line takes
    user: UserArgument,
    email: Annotated[list[str] | None, typer.Option("--email", help="An e-mail address.")] = None,
    webhook: Annotated[list[str] | None, typer.Option("--webhook", help="A URL to call.")] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Signs the calls of all --webhook; better in --from.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A file with the whole contact as JSON; - for standard input."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the contact of USER in the place of the one before; returns once the broker has it.

    Every `deliver` process has it within two seconds. `--from` takes all there is: webhook, email, webpush,
    apprise and mute (docs/reference/contacts.md).

    Examples:

        notifyd contacts set alice --email alice@example.org

        notifyd contacts set alice --from - <<< '{"mute": [{"from": "22:00", "until": "07:00"}]}'
    """
    settings = read_settings()
    value = _contact(email or [], webhook or [], secret, source)
    _check(settings, user, value)
    run_async(_write(settings, user, value))
    _done(user, "is set", as_json=as_json)


@app.command("show")
def show(
    user: UserArgument,
    secrets: Annotated[bool, typer.Option("--secrets", help="Show secrets and keys as well.")] = False,
) -> None:
    """Print the contact of USER as JSON; exit code 1 where there is none.

    Reads the user's partition of the topic from its start. An address of which the other side said that it
    is gone has `"gone": true`: nothing is sent there until the contact is set anew.

    Example: notifyd contacts show alice
    """
    from notifyd.errors import PermanentError
    from notifyd.stream.contact_lookup import find_contact, show_contact

    settings = read_settings()
    found = run_async(find_contact(settings, user, tell=lambda count: note(f"{count} records ...")))
    if found is None:
        raise PermanentError(
            f"there is no contact of {user}", reason="no_contact", remedy=f"notifyd contacts set {user} ..."
        )
    value, gone = found
    emit_json(show_contact(value, gone, secrets=secrets))


@app.command("rm")
def remove(user: UserArgument, as_json: JsonOption = False) -> None:
    """Remove the contact of USER; returns once the broker has it. Safe to repeat.

    Example: notifyd contacts rm alice
    """
    settings = read_settings()
    _check(settings, user, None)
    run_async(_write(settings, user, None))
    _done(user, "is removed", as_json=as_json)


def _done(user: str, what: str, *, as_json: bool) -> None:
    if as_json:
        emit_json({"user": user, "ok": True})
    else:
        emit(f"the contact of {user} {what}")


def _contact(email: list[str], webhook: list[str], secret: str | None, source: Path | None) -> bytes:
    from notifyd.errors import ConfigError

    if source is not None:
        if email or webhook or secret:
            raise ConfigError("--from does not go with other addresses", reason="bad_usage")
        try:
            return sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
        except OSError as error:
            raise ConfigError(f"{source} cannot be read: {error.strerror}", reason="bad_usage") from None
    if not email and not webhook:
        raise ConfigError(
            "where is the user reached?",
            reason="bad_usage",
            remedy="name an --email, a --webhook, or a file with --from; `notifyd contacts rm` removes",
        )
    calls = [{"url": url, **({"secret": secret} if secret else {})} for url in webhook]
    parts: dict[str, Any] = {"email": email, "webhook": calls}
    return json.dumps({name: part for name, part in parts.items() if part}).encode()


def _check(settings: Settings, user: str, value: bytes | None) -> None:
    from notifyd.delivery.contact import read_contact
    from notifyd.errors import ConfigError

    check_user(settings, user)
    if value is not None:
        if len(value) > settings.message_max_bytes:
            raise ConfigError(f"a contact has at most {settings.message_max_bytes} bytes", reason="too_large")
        read_contact(value, user, where=user, reason="bad_contact")


async def _write(settings: Settings, user: str, value: bytes | None) -> None:
    from notifyd.metrics import Metrics
    from notifyd.stream.clients import probe_broker
    from notifyd.stream.contact_marks import removal_records
    from notifyd.stream.producer import Producer
    from notifyd.stream.records import OutRecord
    from notifyd.stream.topics import Topics

    await probe_broker(settings)
    producer = Producer(settings, Metrics(), client_id="notifyd-contacts")
    await producer.start()
    try:
        topic = Topics.of(settings).contacts
        if value is None:
            records = removal_records(topic, user, range(await producer.partitions(topic)))
        else:
            records = [OutRecord(topic, value, key=user.encode())]
        await producer.send_all(records)
    finally:
        await producer.stop(1.0)
