"""The dashboard is what its tables say, covers every metric that people look at, and fits on the screen."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

from notifyd.metrics import Metrics
from tests.fixtures.manifests import K8S, rendered

FILE = K8S / "components/monitoring/dashboards/notifyd.json"

#: Said elsewhere already: what is on the page comes from another metric, or only a benchmark reads it.
_LEFT_OUT = {
    "notifyd_event_loop_tasks",
    "notifyd_oldest_in_flight_seconds",
    "notifyd_invalid_records_total",
    "notifyd_database_connection_wait_seconds",
    "notifyd_events_total",
    "notifyd_events_dropped_total",
    "notifyd_webhook_calls",
    "notifyd_webpush_calls",
    "notifyd_contacts",
    "notifyd_contact_addresses_gone_total",
    "notifyd_contact_records_total",
    "notifyd_sender_pauses_total",
    "notifyd_sweep_alarms_total",
    "notifyd_ws_connections_max",
    "notifyd_ws_frames_received_total",
    "notifyd_ws_acks_refused_total",
    "notifyd_ws_signals_written_total",
    "notifyd_ws_signals_dropped_total",
    "notifyd_ws_states_sent_total",
}


def _panels() -> list[dict[str, Any]]:
    return list(json.loads(FILE.read_text())["panels"])


def test_the_file_is_current() -> None:
    tool = runpy.run_path(str(K8S.parent / "tools/dashboards.py"))
    assert FILE.read_text() == tool["render"](), "run: .venv/bin/python tools/dashboards.py"


def test_a_new_metric_is_shown_or_left_out_on_purpose() -> None:
    shown = set(re.findall(r"notifyd_\w+", FILE.read_text()))
    unseen = {one.name for one in Metrics().declared if not one.series & shown}
    assert unseen == _LEFT_OUT


def test_every_panel_says_what_it_tells_and_lies_over_no_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "timeseries":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["targets"], panel["title"]


def test_grafana_gets_it_as_a_labelled_config_map() -> None:
    (found,) = (
        one
        for one in rendered("prod")
        if one["kind"] == "ConfigMap" and one["metadata"]["labels"].get("grafana_dashboard") == "1"
    )
    assert json.loads(found["data"]["notifyd.json"])["uid"] == "notifyd"
