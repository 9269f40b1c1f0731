"""`notifyd topics create` and `notifyd topics check`."""

from __future__ import annotations

from typing import Annotated

import typer

from notifyd.cli.output import emit, emit_json, read_settings, run_async

app = typer.Typer(
    help="Create or check the Kafka topics. No role ever creates one.",
    no_args_is_help=True,
    add_completion=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@app.command("create")
def create(as_json: JsonOption = False) -> None:
    """Create the topics that are missing, and the incarnation id once.

    Partitions, replication, retention and prefix come from NOTIFYD_TOPIC_...; a topic that exists
    stays as it is (`notifyd topics check` compares). Safe to run again, and from several places.

    Example:

        NOTIFYD_TOPIC_REPLICATION=3 NOTIFYD_TOPIC_PARTITIONS=12 notifyd topics create
    """
    settings = read_settings()
    from notifyd.stream.topics import create_topics, read_incarnation

    async def work() -> tuple[list[str], str]:
        return await create_topics(settings), await read_incarnation(settings)

    created, incarnation = run_async(work())
    if as_json:
        emit_json({"created": created, "incarnation": incarnation})
        return
    for name in created:
        emit(f"created {name}")
    if not created:
        emit("all topics exist")


@app.command("check")
def check(as_json: JsonOption = False) -> None:
    """Compare the topics with what notifyd needs; exit code 1 and a remedy for each difference.

    Example:

        notifyd topics check --json
    """
    settings = read_settings()
    from notifyd.stream.topics import check_topics

    problems = run_async(check_topics(settings))
    if as_json:
        emit_json({"ok": not problems, "problems": problems})
    else:
        for text in problems or ["all topics are as they must be"]:
            emit(text)
    if problems:
        raise typer.Exit(1)
