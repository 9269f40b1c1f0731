"""`notifyd topics create`, `check` and `groups`: what roles need in Kafka, and what they left there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import emit, emit_json, note, read_settings, run_async

if TYPE_CHECKING:
    from notifyd.stream.groups import OwnGroup

app = typer.Typer(
    help="Create or check the Kafka topics, or clear groups. No role ever creates a topic.",
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


@app.command("groups")
def groups(
    clear: Annotated[bool, typer.Option("--clear", help="Delete those that are left over.")] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Of processes that began so long ago, such as 90s, 15m, 1h.")
    ] = "1h",
    as_json: JsonOption = False,
) -> None:
    """List the consumer groups of `ws` processes, and delete those that killed ones left behind.

    Each `ws` process reads in a group of its own and deletes it when it leaves; one that is killed cannot.
    Left over is a group that nobody is in, of a process that began before --older-than. Kafka tells no
    age of a group, so its name tells when its process began; names of an earlier release count as old.

    A group that somebody is in is never deleted. Nothing is kept in these groups, so one deleted by mistake
    is there again as soon as its process comes back.

    Examples:

        notifyd topics groups

        notifyd topics groups --clear --older-than 1h
    """
    settings = read_settings()
    from notifyd.errors import ConfigError
    from notifyd.message.times import parse_duration_s
    from notifyd.roles.streaming import group_of
    from notifyd.stream.groups import clear_groups, find_groups, orphans_of

    older_than_s = 0.0 if older_than in ("0", "0s") else parse_duration_s(older_than)
    if older_than_s is None:
        raise ConfigError(f"--older-than {older_than!r} is no duration", reason="usage", remedy="such as 1h")
    now_ms = int(time.time() * 1000)

    async def work() -> tuple[list[OwnGroup], set[str], set[str]]:
        found = await find_groups(settings, group_of(settings, "ws"))
        left = {one.name for one in orphans_of(found, now_ms=now_ms, older_than_s=older_than_s)}
        return found, left, set(await clear_groups(settings, sorted(left))) if clear else set()

    found, left, gone = run_async(work())
    if as_json:
        emit_json({"groups": [_describe(one, left, gone, now_ms) for one in found]})
        return
    for one in found:
        item = _describe(one, left, gone, now_ms)
        age = "?" if item["age_s"] is None else f"{item['age_s']:.0f} s"
        emit(f"{item['state']:<10} {age:>10}  {one.name}")
    if not found:
        emit("no group of a ws process")
    elif left and not clear:
        note("notifyd: `notifyd topics groups --clear` deletes those that are left over")


def _describe(one: OwnGroup, left: set[str], gone: set[str], now_ms: int) -> dict[str, Any]:
    state = "in use" if not one.is_empty else "empty"
    if one.name in left:
        state = "deleted" if one.name in gone else "left over"
    age_s = None if one.began_ms is None else (now_ms - one.began_ms) / 1000
    return {"group": one.name, "state": state, "age_s": age_s}
