"""Every metric that an autoscaler, an alert or a dashboard names is one that a process exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from notifyd.metrics import Metrics
from tests.fixtures.manifests import K8S, of_kind

_MONITORING = K8S / "components/monitoring"
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`")
_NAME = re.compile(r"(?<![\w:])notifyd[\w:]*")


def _exported() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + ending for ending in endings}
    return names


def _values(node: Any, *keys: str) -> Iterator[str]:
    """Yield every string below one of these keys, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys and isinstance(value, str):
                yield value
            yield from _values(value, *keys)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, *keys)


def _named(expression: str) -> set[str]:
    return set(_NAME.findall(_STRING.sub("", expression)))


def _rules() -> list[Any]:
    files = sorted((_MONITORING / "rules").glob("*.yaml"))
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def _unknown(source: Any, *keys: str) -> set[str]:
    recorded = {name for rules in _rules() for name in _values(rules, "record")}
    return {name for text in _values(source, *keys) for name in _named(text)} - _exported() - recorded


def test_names_are_found_in_expressions_and_not_in_labels() -> None:
    text = 'sum by (pod) (rate(notifyd_a_total{topic="notifyd.messages"}[5m])) / notifyd:b:rate5m > 2'
    assert _named(text) == {"notifyd_a_total", "notifyd:b:rate5m"}
    assert _unknown({"expr": "notifyd_nobody_exports_this"}, "expr") == {"notifyd_nobody_exports_this"}


def test_autoscalers_ask_for_metrics_that_there_are() -> None:
    adapter = yaml.safe_load((K8S / "overlays/prod/adapter-rules.yaml").read_text())["rules"]
    known = _exported()
    for scaler in of_kind("prod", "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Resource":
                continue
            section, kind = ("custom", "pods") if metric["type"] == "Pods" else ("external", "external")
            name = metric[kind]["metric"]["name"]
            assert name in known
            # Without a rule of the adapter nobody answers, and the autoscaler stands still.
            assert name in {found for rule in adapter[section] for found in _named(rule["seriesQuery"])}
    assert _unknown(adapter, "seriesQuery") == set()
    scaled = of_kind("prod-keda", "ScaledObject")
    assert len(list(_values(scaled, "query"))) == 3
    assert _unknown(scaled, "query") == set()


def test_alerts_ask_for_metrics_that_there_are() -> None:
    assert _unknown(_rules(), "expr") == set()


def test_dashboards_ask_for_metrics_that_there_are() -> None:
    for path in sorted((_MONITORING / "dashboards").glob("*.json")):
        assert _unknown(json.loads(path.read_text()), "expr", "query", "definition") == set(), path.name


def test_labels_that_autoscalers_select_by_are_ones_that_the_metric_has() -> None:
    metrics = Metrics()
    metrics.lag_seconds.labels(role="deliver", topic="notifyd.messages", partition="0").set(0)
    (family,) = (one for one in metrics.registry.collect() if one.name == "notifyd_lag_seconds")
    labels = family.samples[0].labels.keys()
    selectors = [
        metric["external"]["metric"]["selector"]
        for scaler in of_kind("prod", "HorizontalPodAutoscaler")
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "External"
    ]
    assert len(selectors) == 2
    for selector in selectors:
        assert selector["matchLabels"].keys() <= labels
        assert {one["key"] for one in selector["matchExpressions"]} <= labels
