"""How many processes of a role are advised, and that its questions mean what they say to Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from notifyd.cli.main import run_command
from notifyd.cli.scale_advice import _QUERIES
from notifyd.cli.scaling import Limits, Load, advise

CALM = Limits(cpu_share=0.5, connections=1000, least=2)


@pytest.mark.parametrize(
    ("load", "replicas", "why"),
    [
        (Load("persist", 6, 6, cpu=0.9, seen_min=60), 3, "0.90 cores at the busiest"),
        (Load("deliver", 6, 6, cpu=0.0, seen_min=60), 2, "0.00 cores"),
        (Load("persist", 3, 3, cpu=0.9, seen_min=60), 3, "none can go"),
        (Load("persist", 2, 2, cpu=3.0, seen_min=60), 2, "none can go"),
        (Load("ws", 8, 8, cpu=0.1, connections=2500, seen_min=60), 4, "2500 connections"),
        (Load("ws", 8, 8, cpu=2.0, connections=2500, seen_min=60), 5, "2500 connections"),
        (Load("sweep", 5, 5, cpu=4.0, seen_min=60), 2, "one leads"),
        (Load("persist", 6, 6, seen_min=60), 6, "not now: it was seen for"),
        (Load("persist", 6, 6, cpu=0.1, seen_min=14), 6, "seen for 14 min only"),
        (Load("persist", 6, 6, cpu=0.1, seen_min=90), 2, "at the busiest of 90 min"),
        (Load("persist", 6, 6, cpu=0.1, seen_min=20_160), 2, "at the busiest of 14 days"),
        (Load("persist", 6, 5, seen_min=60), 6, "not now: 1 of 6 processes"),
        (Load("persist", 6, 6, lag_s=11.0, seen_min=60), 6, "not now: a partition was 11 s late"),
        (Load("api", 6, 6, cpu=0.1, loop_lag_s=0.7, seen_min=60), 6, "not now: an event loop was 0.7 s late"),
    ],
)
def test_what_is_left_carries_the_busiest_moment_without_one_of_them(
    load: Load, replicas: int, why: str
) -> None:
    advice = advise(load, CALM)
    assert advice.replicas == replicas
    assert why in advice.reason


#: Two persist, one of them not ready and behind, and a ws; each scraped once a minute.
SERIES = [
    ('notifyd_ready{role="persist",instance="a",namespace="n"}', "1x120"),
    ('notifyd_ready{role="persist",instance="b",namespace="n"}', "0x120"),
    ('notifyd_ready{role="ws",instance="c",namespace="n"}', "1x120"),
    ('notifyd_ready{role="ws",instance="d",namespace="other"}', "1x120"),
    ('process_cpu_seconds_total{instance="a",namespace="n"}', "0+30x60 1800+7.5x60"),
    ('process_cpu_seconds_total{instance="b",namespace="n"}', "0+15x120"),
    ('process_cpu_seconds_total{instance="c",namespace="n"}', "0+7.5x120"),
    ('notifyd_ws_connections{instance="c",namespace="n"}', "500x30 80x90"),
    ('notifyd_ws_connections{instance="a",namespace="n"}', "0x120"),
    ('notifyd_lag_seconds{role="persist",topic="notifyd.events",instance="b",namespace="n"}', "0x110 7x10"),
    ('notifyd_lag_seconds{role="persist",topic="notifyd.retry.1h",instance="b",namespace="n"}', "3000x120"),
    ('notifyd_event_loop_lag_seconds{instance="c",namespace="n"}', "0.25x120"),
]
#: By question: what comes out for each role, at the end of two hours.
ANSWERS = {
    "replicas": {"persist": 2, "ws": 1},
    "ready": {"persist": 1, "ws": 1},
    "seen_min": {"persist": 121, "ws": 121},
    "cpu": {"persist": 0.75, "ws": 0.125},
    "connections": {"ws": 500},
    "lag_s": {"persist": 7},
    "loop_lag_s": {"ws": 0.25},
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
def test_its_questions_find_the_busiest_moment_of_each_role(tmp_path: Path) -> None:
    def sample(role: str, value: float) -> dict[str, Any]:
        return {"labels": f'{{role="{role}"}}', "value": value}

    queries = {name: query.format(ns='namespace="n"', over="2h") for name, query in _QUERIES.items()}
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in SERIES],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "2h",
                "exp_samples": [sample(*one) for one in ANSWERS[name].items()],
            }
            for name, query in queries.items()
        ],
    }
    case = tmp_path / "advice.test.yaml"
    case.write_text(json.dumps({"rule_files": [], "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", case], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [("--over", "yesterday", "such as 1d"), ("--namespace", 'a"} or b', "name a Kubernetes namespace")],
)
def test_what_goes_into_a_question_is_checked(
    capsys: pytest.CaptureFixture[str], option: str, value: str, remedy: str
) -> None:
    assert run_command(["scale-advice", option, value]) == 2
    assert remedy in capsys.readouterr().err
