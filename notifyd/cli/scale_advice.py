"""`notifyd scale-advice`: how many processes of each role would do, by what Prometheus has seen."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifyd.cli.output import emit, emit_json, note, run_async
from notifyd.cli.scaling import CONNECTIONS, CPU_SHARE, LEAST

if TYPE_CHECKING:
    from notifyd.cli.scaling import Load

_TIMEOUT_S = 20.0
_DURATION = re.compile(r"\d+[mhdw]")
_SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

#: Each by role; `{ns}` becomes a matcher of the namespace, `{over}` how far to look back. A process has one
#: role, which its `notifyd_ready` names; what has no such label of its own is joined with it.
_QUERIES = {
    "replicas": "count by (role) (notifyd_ready{{{ns}}})",
    "ready": "sum by (role) (notifyd_ready{{{ns}}})",
    "seen_min": "count_over_time((count by (role) (notifyd_ready{{{ns}}}))[{over}:1m])",
    "cpu": (
        "max_over_time(sum by (role) (rate(process_cpu_seconds_total{{{ns}}}[5m])"
        " * on (instance) group_left (role) group by (instance, role) (notifyd_ready{{{ns}}}))[{over}:1m])"
    ),
    "connections": (
        "max_over_time(sum by (role) (notifyd_ws_connections{{{ns}}}"
        ' * on (instance) group_left (role) group by (instance, role) (notifyd_ready{{role="ws",{ns}}}))'
        "[{over}:1m])"
    ),
    # What waits in a retry topic is meant to wait.
    "lag_s": 'max by (role) (max_over_time(notifyd_lag_seconds{{topic!~".*[.]retry[.].*",{ns}}}[15m]))',
    "loop_lag_s": (
        "max by (role) (max_over_time(notifyd_event_loop_lag_seconds{{{ns}}}[15m])"
        " * on (instance) group_left (role) group by (instance, role) (notifyd_ready{{{ns}}}))"
    ),
}


def scale_advice(
    *,
    prometheus: Annotated[
        str, typer.Option("--prometheus", metavar="URL", help="Where Prometheus answers.")
    ] = "http://localhost:9090",
    over: Annotated[str, typer.Option("--over", help="How far to look back: 6h, 1d, 2w.")] = "1d",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The namespace in Kubernetes; empty: any.")
    ] = "notifyd",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="This role alone; may be given again.")
    ] = None,
    cpu: Annotated[
        float, typer.Option("--cpu", min=0.05, max=1.0, help="Cores that a process is to use at the most.")
    ] = CPU_SHARE,
    connections: Annotated[
        int, typer.Option("--connections", min=1, help="Connections of a ws process at the most.")
    ] = CONNECTIONS,
    least: Annotated[int, typer.Option("--least", min=1, help="Processes of a role at the least.")] = LEAST,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per role.")] = False,
) -> None:
    """Say how many processes of each role are safe to scale down to by hand, and print the commands.

    The autoscalers only add: what is taken away sends clients elsewhere and rebalances groups, so a person
    chooses the moment. What is left must carry the busiest moment of `--over`, with one process missing.
    Nothing is changed; without a Prometheus that scrapes the admin ports there is no advice.

    Examples:

        kubectl -n monitoring port-forward svc/prometheus 9090 &
        notifyd scale-advice

        notifyd scale-advice --over 2w --role ws --connections 20000
    """
    from notifyd.cli.scaling import Limits, advise
    from notifyd.errors import ConfigError

    if not _DURATION.fullmatch(over):
        raise ConfigError(
            f"--over is {over!r}", reason="bad_option", remedy="a number and m, h, d or w, such as 1d"
        )
    if namespace and not _SELECTOR.fullmatch(namespace):
        raise ConfigError(
            f"--namespace is {namespace!r}", reason="bad_option", remedy="name a Kubernetes namespace"
        )
    loads = run_async(_ask(prometheus.rstrip("/"), over, namespace))
    loads = [load for load in loads if not role or load.role in role]
    if not loads:
        raise ConfigError(
            f"{prometheus} knows of no process of notifyd" + (f" in {namespace}" if namespace else ""),
            reason="no_metrics",
            remedy="name the namespace (-n) and have the admin ports scraped (k8s/components/monitoring)",
        )
    limits = Limits(cpu, connections, least)
    for load in loads:
        advice = advise(load, limits)
        command = _command(load, advice.replicas, namespace)
        if as_json:
            emit_json(
                {
                    "role": load.role,
                    "replicas": load.replicas,
                    "safe": advice.replicas,
                    "reason": advice.reason,
                    "command": command,
                    "seen_min": load.seen_min,
                    "cpu_cores": None if load.cpu is None else round(load.cpu, 3),
                    "connections": round(load.connections),
                    "lag_s": round(load.lag_s, 1),
                    "loop_lag_s": round(load.loop_lag_s, 3),
                }
            )
        else:
            emit(f"{load.role:<8} {load.replicas} -> {advice.replicas}  {advice.reason}")
            if command is not None:
                emit(f"  {command}")
    if not as_json:
        note("Of ws take one at a time: its clients move to the others, over the window of a drain.")


def _command(load: Load, replicas: int, namespace: str) -> str | None:
    """Return what takes the surplus away, unless somebody else has changed the number meanwhile."""
    if replicas >= load.replicas:
        return None
    where = f" -n {namespace}" if namespace else ""
    return (
        f"kubectl{where} scale deployment/notifyd-{load.role} "
        f"--current-replicas={load.replicas} --replicas={replicas}"
    )


async def _ask(url: str, over: str, namespace: str) -> list[Load]:
    import aiohttp

    from notifyd.cli.scaling import Load

    matcher = f'namespace="{namespace}"' if namespace else ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        answers = await asyncio.gather(
            *(_query(session, url, query.format(ns=matcher, over=over)) for query in _QUERIES.values())
        )
    found = dict(zip(_QUERIES, answers, strict=True))
    return [
        Load(
            role,
            replicas=int(replicas),
            ready=int(found["ready"].get(role, 0)),
            cpu=found["cpu"].get(role),
            connections=found["connections"].get(role, 0.0),
            lag_s=found["lag_s"].get(role, 0.0),
            loop_lag_s=found["loop_lag_s"].get(role, 0.0),
            seen_min=int(found["seen_min"].get(role, 0)),
        )
        for role, replicas in sorted(found["replicas"].items())
    ]


async def _query(session: Any, url: str, query: str) -> dict[str, float]:
    """Return the value of each role; raises `TransientError` where no Prometheus answers."""
    import aiohttp

    from notifyd.errors import TransientError

    try:
        async with session.post(f"{url}/api/v1/query", data={"query": query}) as answer:
            told = await answer.json(content_type=None)
        return {one["metric"]["role"]: float(one["value"][1]) for one in told["data"]["result"]}
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        raise TransientError(
            f"{url} does not answer as Prometheus does: {error or 'no answer in time'}",
            reason="prometheus_unavailable",
            remedy="name it with --prometheus; `kubectl port-forward` makes one of a cluster answer here",
        ) from error
