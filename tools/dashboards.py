"""Writes Grafana's dashboard of notifyd: `.venv/bin/python tools/dashboards.py`.

The tables below are its source, the JSON beside the alerts is what Grafana reads; a test holds the two
together. A panel: title, unit, one line of what it tells, and its curves (legend, expression).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).parents[1] / "k8s/components/monitoring/dashboards/notifyd.json"

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_HERE: Final = 'namespace=~"$namespace"'
_WIDTH, _HEIGHT, _ACROSS = 6, 7, 4

Curve = tuple[str, str]
Panel = tuple[str, str, str, list[Curve]]


def _quantiles(metric: str, by: str = "", where: str = "") -> list[Curve]:
    """p50 and p99 of a histogram, by a label where one is named."""
    groups = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (
            f"p{percent}{legend}",
            f"histogram_quantile(0.{percent}, sum by ({groups}) "
            f"(rate({metric}_bucket{{{_HERE}{where}}}[$__rate_interval])))",
        )
        for percent in ((50, 99) if not by else (99,))
    ]


def _rate(metric: str, by: str, where: str = "") -> list[Curve]:
    """What happens in a second, by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(legend, f"sum by ({by}) (rate({metric}{{{_HERE}{where}}}[$__rate_interval]))")]


def _most(metric: str, by: str, where: str = "") -> list[Curve]:
    """The highest of a gauge, by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(legend, f"max by ({by}) ({metric}{{{_HERE}{where}}})")]


def _sum(metric: str, legend: str, by: str = "") -> Curve:
    grouping = f"by ({by}) " if by else ""
    return (legend, f"sum {grouping}({metric}{{{_HERE}}})")


def _of_role(metric: str, role: str) -> list[Curve]:
    """A gauge of those processes that run a role: without a label it stands at 0 in all others."""
    ready = f'notifyd_ready{{{_HERE},role="{role}"}}'
    return [("{{pod}}", f"{metric}{{{_HERE}}} and on (namespace, pod, instance) {ready}")]


ROWS: Final[list[tuple[str, list[Panel]]]] = [
    (
        "Are the promises kept?",
        [
            (
                "Error budget, burn rate of an hour",
                "none",
                "1 uses up just the budget of a month. Above 14.4 somebody is paged.",
                [("{{objective}}", f"notifyd:slo_burn:rate1h{{{_HERE}}}")],
            ),
            (
                "Accepted to push",
                "s",
                "From the record's Kafka timestamp to a connected user's socket.",
                _quantiles("notifyd_ingest_to_push_seconds"),
            ),
            (
                "Accepted to stored",
                "s",
                "To committed rows.",
                _quantiles("notifyd_ingest_to_stored_seconds"),
            ),
            (
                "Accepted to final, p99",
                "s",
                "To the final state of deliveries, by channel.",
                _quantiles("notifyd_accepted_to_final_seconds", "channel"),
            ),
            (
                "How late each role is",
                "s",
                "Of all partitions the worst. Over a minute: NotifydLagging.",
                _most("notifyd_lag_seconds", "role, topic"),
            ),
            (
                "Oldest undelivered message",
                "s",
                "Retries end after five hours.",
                [("oldest", f"max(notifyd_oldest_undelivered_seconds{{{_HERE}}})")],
            ),
            (
                "Dead letters",
                "ops",
                "By reason; `notifyd dlq ls` has them.",
                _rate("notifyd_dead_letters_total", "reason"),
            ),
            (
                "Alerts",
                "none",
                "Those of notifyd that fire.",
                [
                    (
                        "{{alertname}}",
                        f'sum by (alertname) (ALERTS{{alertname=~"Notifyd.*",alertstate="firing",{_HERE}}})',
                    )
                ],
            ),
        ],
    ),
    (
        "Processes",
        [
            (
                "Ready",
                "none",
                "Processes that are ready, by role.",
                [_sum("notifyd_ready", "{{role}}", "role")],
            ),
            (
                "Versions",
                "none",
                "Two only during a deploy.",
                [_sum("notifyd_build_info", "{{version}}", "version")],
            ),
            (
                "Event loop's lag",
                "s",
                "The latest that a timer ran in the last minute.",
                _most("notifyd_event_loop_lag_seconds", "pod"),
            ),
            (
                "CPU",
                "none",
                "Cores in use; one is all that a process can use.",
                [("{{pod}}", f"rate(process_cpu_seconds_total{{{_HERE}}}[$__rate_interval])")],
            ),
            ("Memory", "bytes", "Resident.", [("{{pod}}", f"process_resident_memory_bytes{{{_HERE}}}")]),
            (
                "Open descriptors",
                "percentunit",
                "Of those allowed.",
                [("{{pod}}", f"process_open_fds{{{_HERE}}} / process_max_fds{{{_HERE}}}")],
            ),
            (
                "Rebalances",
                "ops",
                "Assignments received, by role.",
                _rate("notifyd_rebalances_total", "role"),
            ),
            (
                "Drain, p99",
                "s",
                "Until work in flight had ended, by role.",
                _quantiles("notifyd_drain_seconds", "role"),
            ),
        ],
    ),
    (
        "Kafka",
        [
            ("Records read", "ops", "By role and topic.", _rate("notifyd_records_total", "role, topic")),
            (
                "Lag in records",
                "short",
                "Not yet committed.",
                [_sum("notifyd_lag_records", "{{role}} {{topic}}", "role, topic")],
            ),
            (
                "Records in flight",
                "short",
                "Read and not yet acked.",
                [_sum("notifyd_in_flight_records", "{{role}} {{topic}}", "role, topic")],
            ),
            (
                "Partitions",
                "none",
                "Assigned, by process.",
                [_sum("notifyd_assigned_partitions", "{{role}} {{pod}}", "role, pod")],
            ),
            (
                "Records written",
                "ops",
                "By topic and result.",
                _rate("notifyd_produced_records_total", "topic, result"),
            ),
            (
                "Acknowledgement by the broker, p99",
                "s",
                "By topic.",
                _quantiles("notifyd_produce_seconds", "topic"),
            ),
            (
                "Waiting for it",
                "short",
                "Records handed over and not acknowledged.",
                _most("notifyd_produce_pending_records", "pod"),
            ),
            ("Commits", "ops", "By result.", _rate("notifyd_commits_total", "role, result")),
        ],
    ),
    (
        "persist, and the database",
        [
            ("Rows", "ops", "Committed, by table.", _rate("notifyd_persisted_rows_total", "table")),
            ("A batch", "s", "To committed rows.", _quantiles("notifyd_persist_batch_seconds")),
            (
                "Connections in use",
                "percentunit",
                "Of those that a process may have.",
                [
                    (
                        "{{pod}}",
                        f"notifyd_database_connections_in_use{{{_HERE}}} / "
                        f"(notifyd_database_connections_max{{{_HERE}}} > 0)",
                    )
                ],
            ),
            ("Waits for the database", "ops", "By reason.", _rate("notifyd_database_waits_total", "reason")),
        ],
    ),
    (
        "deliver, and the sweep",
        [
            (
                "Attempts",
                "ops",
                "By channel and outcome.",
                _rate("notifyd_deliveries_total", "channel, outcome"),
            ),
            (
                "Why not done",
                "ops",
                "Retries, deaths and skips by reason.",
                _rate("notifyd_deliveries_total", "channel, reason", ',outcome!="done"'),
            ),
            ("An attempt, p99", "s", "By channel.", _quantiles("notifyd_delivery_seconds", "channel")),
            (
                "Destinations down",
                "none",
                "Ten failures in a row, by channel.",
                _most("notifyd_hosts_down", "channel"),
            ),
            (
                "Verdicts of the sweep",
                "ops",
                "Resends, releases, what it settled.",
                _rate("notifyd_sweep_verdicts_total", "verdict, reason"),
            ),
            (
                "What the sweep knows",
                "s",
                "Age of the moment up to which it does.",
                _of_role("notifyd_mark_lag_seconds", "sweep"),
            ),
            ("Leads the sweep", "none", "One process.", [_sum("notifyd_sweep_leader", "leaders")]),
            (
                "Unforeseen failures",
                "ops",
                "By role and topic; the log has the traceback.",
                _rate("notifyd_handler_failures_total", "role, topic"),
            ),
        ],
    ),
    (
        "ws",
        [
            ("Connections", "short", "Open, by process.", _of_role("notifyd_ws_connections", "ws")),
            (
                "Opened",
                "ops",
                "Connections, by process.",
                _rate("notifyd_ws_connections_opened_total", "pod"),
            ),
            (
                "Closed",
                "ops",
                "By close code: 44xx are final, others come again.",
                _rate("notifyd_ws_closes_total", "code"),
            ),
            (
                "Turned away or cut",
                "ops",
                "By reason; evicted: it did not read.",
                [
                    *_rate("notifyd_ws_refused_total", "reason"),
                    ("evicted", f"sum(rate(notifyd_ws_evictions_total{{{_HERE}}}[$__rate_interval]))"),
                ],
            ),
            (
                "Messages",
                "ops",
                "Sent, acknowledged, replayed, sent again.",
                [
                    (name, f"sum(rate(notifyd_ws_{metric}_total{{{_HERE}}}[$__rate_interval]))")
                    for name, metric in (
                        ("sent", "messages_sent"),
                        ("acks", "acks"),
                        ("replayed", "messages_replayed"),
                        ("resent", "messages_resent"),
                    )
                ],
            ),
            ("Resumes", "ops", "By what was missing.", _rate("notifyd_ws_resumes_total", "missing")),
            (
                "Window",
                "bytes",
                "Kept for clients that come back.",
                _of_role("notifyd_ws_window_bytes", "ws"),
            ),
            (
                "Ingest",
                "Bps",
                "Bytes of messages read, by process.",
                _rate("notifyd_ws_ingest_bytes_total", "pod"),
            ),
        ],
    ),
    (
        "api",
        [
            ("Requests", "ops", "By route and status.", _rate("notifyd_api_requests_total", "route, status")),
            ("A request, p99", "s", "By route.", _quantiles("notifyd_api_request_seconds", "route")),
            ("Under way", "short", "Requests.", _of_role("notifyd_api_in_flight_requests", "api")),
            ("Their bodies", "bytes", "Held in memory.", _of_role("notifyd_api_held_bytes", "api")),
        ],
    ),
]


def build() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = [_find_panel()]
    y = 3
    for title, row in ROWS:
        panels.append(
            {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
        )
        y += 1
        for number, panel in enumerate(row):
            x, down = number % _ACROSS * _WIDTH, number // _ACROSS * _HEIGHT
            panels.append(_panel(panel, {"x": x, "y": y + down, "w": _WIDTH, "h": _HEIGHT}))
        y += (len(row) + _ACROSS - 1) // _ACROSS * _HEIGHT
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "uid": "notifyd",
        "title": "notifyd",
        "tags": ["notifyd"],
        "editable": True,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {
                "name": "namespace", "type": "query", "datasource": _SOURCE, "refresh": 2, "includeAll": True,
                "allValue": ".*", "query": "label_values(notifyd_build_info, namespace)",
                "current": {"text": "All", "value": "$__all"},
            },
            {"name": "site", "type": "textbox", "label": "notifyd's API", "query": "http://localhost:8080"},
            {"name": "message", "type": "textbox", "label": "Message's UUID", "query": ""},
        ]},
        "panels": panels,
    }  # fmt: skip


def _find_panel() -> dict[str, Any]:
    """From an alert to one message's life, on the same screen."""
    text = (
        "**One message's life**: [${site}/trace/${message}](${site}/trace/${message}), or "
        "`notifyd trace ${message}`. **Which ones hang**: `notifyd trace --stuck`. "
        "**What an alert wants**: `docs/how-to/alerts.md`."
    )
    return {
        "type": "text",
        "title": "",
        "gridPos": {"x": 0, "y": 0, "w": 24, "h": 3},
        "options": {"mode": "markdown", "content": text},
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    title, unit, meaning, curves = panel
    return {
        "type": "timeseries",
        "title": title,
        "description": meaning,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 5}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": "ABCDEF"[number],
                "datasource": _SOURCE,
                "legendFormat": legend,
                "expr": expression,
                # Where tracing is on, a dot of the latency leads to its trace.
                "exemplar": "_bucket" in expression,
            }
            for number, (legend, expression) in enumerate(curves)
        ],
    }


def render() -> str:
    """Return the file's text."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
