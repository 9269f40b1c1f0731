from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_tests_that_the_page_of_the_engine_names_are_there() -> None:
    page = (ROOT / "docs/explanation/engine.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 30
    assert named <= defined, sorted(named - defined)
