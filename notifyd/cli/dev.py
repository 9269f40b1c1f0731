"""`notifyd dev`: everything at once on one machine, with nothing installed before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from notifyd.dev.infra import DevSurroundings


def dev(
    *,
    infra_only: Annotated[
        bool,
        typer.Option(
            "--infra-only",
            help="Broker and PostgreSQL alone; prints settings for roles run by hand.",
        ),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help='Print one line of JSON when all is up: {"env": {...}, ...}.')
    ] = False,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Apache Kafka (`make kafka`) in place of the embedded broker.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where data and logs live; default: .dev")
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option("--http-port", min=0, max=65535, help="Public port, default 8080; 0: any free one."),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(
            "--admin-port",
            min=0,
            max=65535,
            help="Port of health and metrics, default 9090; 0: any free.",
        ),
    ] = None,
) -> None:
    """Run broker, PostgreSQL and every role here, until Ctrl-C ends all of it.

    What the database holds stays in the data directory; what the embedded broker holds is gone
    at the end. In a second terminal, in the same folder, `notifyd send`, `listen` and `trace`
    find the surroundings by themselves.

    Examples:

        notifyd dev

        notifyd dev --kafka --http-port 0

        notifyd dev --infra-only           # then paste the lines it prints into other terminals
    """
    from notifyd.cli.output import note
    from notifyd.dev.infra import DevSurroundings
    from notifyd.dev.running import ended_by_signals, run_roles, wait_for_end
    from notifyd.dev.session import DEV_DIRECTORY

    fixed = _ports(http_port, admin_port, infra_only=infra_only)
    with (
        ended_by_signals(),
        DevSurroundings(
            data or DEV_DIRECTORY, real_kafka=kafka, fixed=fixed, say=lambda text: note(f"dev: {text} ...")
        ) as surroundings,
    ):
        try:
            if infra_only:
                _print_settings(surroundings, json_output=json_output)
                wait_for_end(surroundings)
            else:
                code = run_roles(surroundings, on_ready=lambda: _print_welcome(surroundings, json_output))
                if code:
                    raise typer.Exit(code)
        finally:
            note("dev: ending broker and PostgreSQL ...")
    note("dev: ended")


def _ports(http_port: int | None, admin_port: int | None, *, infra_only: bool) -> dict[str, str]:
    """Choose the ports and see that they are free, before anything else is started."""
    from notifyd.dev.child import free_port, is_free
    from notifyd.errors import ConfigError

    if infra_only:
        # Several roles run by hand on one machine: each admin server takes a free port and says which.
        chosen = {"NOTIFYD_ADMIN_PORT": str(admin_port or 0)}
        if http_port is not None:
            chosen["NOTIFYD_HTTP_PORT"] = str(http_port or free_port())
        return chosen
    import os

    found = {}
    for name, option, given, usual in (
        ("NOTIFYD_HTTP_PORT", "--http-port", http_port, 8080),
        ("NOTIFYD_ADMIN_PORT", "--admin-port", admin_port, 9090),
    ):
        text = os.environ.get(name, "")
        wanted = given if given is not None else int(text) if text.isdigit() else usual
        if wanted and not is_free(wanted):
            raise ConfigError(
                f"port {wanted} on 127.0.0.1 is in use",
                reason="port_in_use",
                remedy=f"end what listens there, or choose another with {option} (0: any free one)",
            )
        found[name] = str(wanted or free_port())
    # The page's own, by both its names.
    if not os.environ.get("NOTIFYD_WS_ORIGINS"):
        port = found["NOTIFYD_HTTP_PORT"]
        found["NOTIFYD_WS_ORIGINS"] = f"http://localhost:{port},http://127.0.0.1:{port}"
    return found


def _print_settings(surroundings: DevSurroundings, *, json_output: bool) -> None:
    import shlex

    from notifyd.cli.output import emit, emit_json, note

    if json_output:
        emit_json({"env": surroundings.env})
        return
    for name, value in sorted(surroundings.env.items()):
        emit(f"export {name}={shlex.quote(value)}")
    note("dev: ready. Paste these lines into a terminal, then for example: notifyd --role=persist")
    note("dev: Ctrl-C ends broker and PostgreSQL")


def _print_welcome(surroundings: DevSurroundings, json_output: bool) -> None:
    from notifyd.cli.output import emit, emit_json
    from notifyd.push.auth import issue_token
    from notifyd.roles.names import ROLES

    env = surroundings.env
    token = issue_token(surroundings.settings(), "alice", ttl_s=86400.0)
    page = f"http://localhost:{env['NOTIFYD_HTTP_PORT']}/"
    push = f"ws://127.0.0.1:{env['NOTIFYD_HTTP_PORT']}/v1/push"
    admin = f"http://127.0.0.1:{env['NOTIFYD_ADMIN_PORT']}"
    if json_output:
        urls = {
            "page": page,
            "trace": f"{page}trace",
            "push": push,
            "health": f"{admin}/healthz",
            "ready": f"{admin}/readyz",
            "metrics": f"{admin}/metrics",
        }
        emit_json({"env": env, "urls": urls, "token": token})
        return
    command = _command()
    emit(f"""
notifyd is ready: {", ".join(ROLES)}

  page       {page}  {page}trace
  push       {push}
  health     {admin}/healthz  /readyz  /metrics
  Kafka      {env["NOTIFYD_KAFKA_BOOTSTRAP_SERVERS"]}  {surroundings.broker_name}
  Postgres   {env["NOTIFYD_DATABASE_URL"]}
  data       {surroundings.directory}
  token      {token}
             (of alice, for a day; `{command} token USER` makes others)

In a second terminal, in this folder:

  {command} listen --user alice
  {command} send --to alice --title Hi --wait
  {command} trace UUID                    # the id that send printed

Ctrl-C ends all of it.
""")


def _command() -> str:
    """Return how this program is called from here."""
    import os
    import shutil
    import sys

    here = Path(sys.argv[0])
    on_path = shutil.which("notifyd")
    if on_path is not None and here.exists() and Path(on_path).samefile(here):
        return "notifyd"
    if not here.exists():
        return "notifyd"
    near = os.path.relpath(here)
    return str(here.absolute()) if near.startswith("..") else near
