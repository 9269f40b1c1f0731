"""`notifyd metrics` shows every metric; the reference page is what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from notifyd.cli.main import run_command
from notifyd.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def test_the_reference_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["metrics", "--markdown"]) == 0
    assert PAGE.read_text() == capsys.readouterr().out, (
        "run: notifyd metrics --markdown > docs/reference/metrics.md"
    )


def test_what_is_declared_is_what_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in Metrics().registry.collect()
        if family.name.startswith("notifyd_")
    }
    assert run_command(["metrics", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["name"]: one["kind"] for one in printed} == registered
    assert len(printed) == len(registered)


def test_names_carry_their_unit_and_meanings_are_sentences() -> None:
    for one in Metrics().declared:
        assert re.fullmatch(r"notifyd_[a-z0-9_]+", one.name), one.name
        assert one.name.endswith("_total") is (one.kind == "counter"), one.name
        assert one.kind != "histogram" or one.name.endswith("_seconds"), one.name
        assert one.meaning.endswith("."), one.name
        assert not {"user", "id", "message_id", "key"} & set(one.labels), one.name
