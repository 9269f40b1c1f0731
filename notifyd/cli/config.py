"""`notifyd config`: every setting, its value, and what it is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from notifyd.cli.output import emit, emit_json, note, warn
from notifyd.errors import ConfigError

HIDDEN: Final = "********"

_UNITS: Final = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_chars": "characters",
    "_records": "records",
    "_partitions": "partitions",
    "_attempts": "attempts",
    "_recipients": "users",
    "_pending": "records",
    "_connections_per_user": "connections",
    "_per_s": "per second",
}
#: Heading of a group of settings in the reference, by what their names start with; the order is the page's.
_GROUPS: Final = (
    ("Kafka", ("kafka_",)),
    ("Topics", ("topic_",)),
    ("Producing", ("producer_", "events_")),
    ("Messages", ("message_",)),
    ("Database", ("database_",)),
    ("HTTP", ("http_", "admin_")),
    ("Tokens", ("jwt_",)),
    ("Push", ("ws_",)),
    ("Deliver", ("deliver_", "webhook_", "retry_", "stub_")),
    ("Tracing", ("tracing_",)),
    ("Process", ("",)),
)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as it is printed; secrets are hidden in `value` already."""

    name: str
    value: Any
    default: Any
    unit: str
    description: str
    is_set: bool


def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page, defaults only.")
    ] = False,
) -> None:
    """Print every setting: its variable, value, default, unit and meaning. Secrets are hidden.

    What is wrong in the environment is told as well; the exit code is then 2.

    Examples:

        notifyd config

        notifyd config --json | jq '.[] | select(.is_set)'
    """
    from notifyd.settings import load_settings, unknown_variables

    if markdown:
        emit(render_markdown(rows_of(load_settings({}), {})))
        return
    fault: ConfigError | None = None
    try:
        settings = load_settings()
    except ConfigError as error:
        # Who asks for the settings because one is wrong must not be refused for it.
        fault, settings = error, load_settings({})
    else:
        for text in unknown_variables(os.environ):
            warn(text)
    rows = rows_of(settings, dict(os.environ))
    if as_json:
        emit_json(
            [
                {
                    "name": row.name,
                    "value": row.value,
                    "default": row.default,
                    "unit": row.unit,
                    "description": row.description,
                    "is_set": row.is_set,
                }
                for row in rows
            ]
        )
    else:
        for row in rows:
            unit = f" {row.unit}" if row.unit else ""
            changed = f"  (default {_plain(row.default)})" if row.is_set else ""
            emit(f"{row.name}={_plain(row.value)}{unit}{changed}\n    {row.description}")
    if fault is not None:
        note("The values above are the defaults, because the environment is wrong:")
        raise fault


def rows_of(settings: Any, environ: dict[str, str]) -> list[SettingRow]:
    """Describe every setting; `environ` says which of them the environment sets."""
    from pydantic import SecretStr

    from notifyd.settings import Settings, variable_of

    given = {name.upper() for name in environ}
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        default = "the host's name" if field.default_factory is not None else field.default
        if field.default_factory is not None and variable_of(name) not in given and not environ:
            value = default
        if isinstance(value, SecretStr):
            value = HIDDEN
        elif isinstance(value, tuple):
            value = ",".join(value)
        if isinstance(default, tuple):
            default = ",".join(default)
        ends = reversed(_UNITS.items()) if not isinstance(field.default, bool) else ()
        unit = next((unit for end, unit in ends if name.endswith(end)), "")
        rows.append(
            SettingRow(
                variable_of(name), value, default, unit, field.description or "", variable_of(name) in given
            )
        )
    return rows


def render_markdown(rows: list[SettingRow]) -> str:
    """Write `docs/reference/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable. Written by `notifyd config --markdown`; do not edit.",
        "An unknown `NOTIFYD_` variable stops a process with the nearest name there is;",
        "`NOTIFYD_SETTINGS_STRICT=false` makes that a warning.",
    ]
    left = list(rows)
    for heading, starts in _GROUPS:
        chosen = [row for row in left if row.name.removeprefix("NOTIFYD_").lower().startswith(starts)]
        left = [row for row in left if row not in chosen]
        lines += [
            "",
            f"## {heading}",
            "",
            "| variable | default | unit | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for row in chosen:
            default = _plain(row.default)
            is_word = default in ("", "unset") or " " in default
            shown = (default or "empty") if is_word else f"`{default}`"
            meaning = row.description.replace("|", "\\|")
            lines.append(f"| `{row.name}` | {shown} | {row.unit} | {meaning} |")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else str(int(value))
    return str(value)
