"""`notifyd metrics`: every metric that a process exports, and what it means."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from notifyd.cli.output import emit, emit_json

if TYPE_CHECKING:
    from notifyd.metrics import Metrics

_HEAD = """# Metrics

What `/metrics` of the admin port (`NOTIFYD_ADMIN_PORT`) exports, printed by `notifyd metrics --markdown`. A
process exports what its role has to tell: a metric without labels stands at 0 elsewhere, one with labels is
not there before it is needed. Beside these come `process_*` and `python_*` of the Prometheus client.

- Times are seconds, sizes bytes; a histogram `X` is exported as `X_bucket`, `X_sum` and `X_count`.
- No label holds an id. `topic` is the name with its prefix, `reason` one of the reasons that logs and the
  dead-letter queue have, too.
- [What to do about an alert](../how-to/alerts.md) has the objectives, and what is watched."""


def metrics(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per metric.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page.")] = False,
) -> None:
    """Print every metric: its name, kind, labels and meaning.

    Examples:

        notifyd metrics

        notifyd metrics --json | jq -r .name
    """
    from notifyd.metrics import Metrics

    catalogue = Metrics()
    if markdown:
        emit(render_markdown(catalogue))
        return
    for one in catalogue.declared:
        if as_json:
            emit_json(
                {
                    "name": one.name,
                    "kind": one.kind,
                    "labels": list(one.labels),
                    "meaning": one.meaning,
                    "section": one.section,
                }
            )
        else:
            labels = f"{{{','.join(one.labels)}}}" if one.labels else ""
            emit(f"{one.name}{labels}  {one.kind}\n    {one.meaning}")


def render_markdown(catalogue: Metrics) -> str:
    """Return the reference page."""
    lines = [_HEAD]
    for section, declared in groupby(catalogue.declared, key=lambda one: one.section):
        lines += [
            "",
            f"## {section}",
            "",
            "| metric | kind | labels | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for one in declared:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.meaning} |")
    return "\n".join(lines)
