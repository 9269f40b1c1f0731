"""Each alert fires on its fault and is silent beside it, by promtool; each has its page; labels exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from notifyd.metrics import Metrics
from tests.fixtures.manifests import K8S

RULES = K8S / "components/monitoring/rules"
CASES = Path(__file__).parent / "alerts"
#: Made by `python -m tests.storm.alerts`, which takes too long for here.
FAULTS = K8S.parent / "tests/storm/alert_faults.py"
PAGE = K8S.parent / "docs/how-to/alerts.md"

#: What Prometheus adds when it scrapes a pod, and histograms have.
_ADDED = {"namespace", "pod", "instance", "le", "objective"}


@cache
def _groups() -> list[dict[str, Any]]:
    return [g for p in sorted(RULES.glob("*.yaml")) for g in yaml.safe_load(p.read_text())["spec"]["groups"]]


def _rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in _groups() for rule in group["rules"] if kind in rule]


def _names() -> list[str]:
    return [rule["alert"] for rule in _rules("alert")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
@pytest.mark.parametrize("cases", ["alerts", "slow"])
def test_alerts_fire_on_their_faults_and_not_beside_them(cases: str, tmp_path: Path) -> None:
    for path in RULES.glob("*.yaml"):
        (tmp_path / path.name).write_text(yaml.safe_dump(yaml.safe_load(path.read_text())["spec"]))
    shutil.copy(CASES / f"{cases}.test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", f"{cases}.test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fired = {
        one["alertname"]
        for path in CASES.glob("*.test.yaml")
        for case in yaml.safe_load(path.read_text())["tests"]
        for one in case.get("alert_rule_test", [])
        if one["exp_alerts"]
    }
    assert fired == set(_names())


def test_every_alert_is_expected_of_a_real_fault() -> None:
    expected = set(re.findall(r'"(Notifyd[A-Za-z]+)[("]', FAULTS.read_text()))
    assert expected == set(_names())


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = re.findall(r"^### (Notifyd\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(_names())
    assert len(set(sections)) == len(sections)
    for rule in _rules("alert"):
        assert rule["annotations"]["runbook_url"] == f"docs/how-to/alerts.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_page_says_of_each_whether_it_is_worth_getting_up() -> None:
    told = dict(re.findall(r"^### (\w+)\n\n\*(Page|Ticket)\.\*", PAGE.read_text(), re.MULTILINE))
    assert told == {rule["alert"]: rule["labels"]["severity"].capitalize() for rule in _rules("alert")}


def test_what_is_selected_and_grouped_by_are_labels_of_the_metrics() -> None:
    labels = {name: set(one.labels) for one in Metrics().declared for name in one.series}
    for rule in [rule for group in _groups() for rule in group["rules"]]:
        expression = rule["expr"]
        named = re.findall(r"(notifyd_\w+)(?:\{([^}]*)\})?", expression)
        for name, selector in named:
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
                assert label in labels[name] | _ADDED, (name, label)
        known = set().union(_ADDED, *(labels[name] for name, _ in named))
        for by in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in by.split(",")} <= known, expression


def test_thresholds_of_objectives_are_buckets_of_their_histograms() -> None:
    # Of a bucket that there is not, the share would be nothing at all.
    metrics = Metrics()
    metrics.accepted_to_final.labels("ws").observe(1)
    ends = {
        (sample.name, sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if "le" in sample.labels
    }
    used = {
        found
        for rule in _rules("record")
        for found in re.findall(r'(notifyd_\w+_bucket)\{le="([^"]+)"\}', rule["expr"])
    }
    assert len(used) == 3
    assert used <= ends
