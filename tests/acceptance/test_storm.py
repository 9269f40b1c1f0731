"""A small storm: kills, stops and freezes over all roles under load, and nothing is lost.

`STORM_MESSAGES` makes it larger. `make storm` is the same at full size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.processes import clean_environment

_ROOT = Path(__file__).resolve().parents[2]
MESSAGES = int(os.environ.get("STORM_MESSAGES", "10000"))
PER_S = 250
SEED = 20261124


@pytest.mark.timeout(600)
@pytest.mark.needs_kafka("the embedded broker takes half a session for each join, and has no idempotence")
def test_a_small_storm_loses_nothing(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    storm = subprocess.run(
        [
            *(sys.executable, "-m", "tests.storm", "--json", "--directory", str(tmp_path / "storm")),
            *("--messages", str(MESSAGES), "--minutes", str(MESSAGES / PER_S / 60), "--seed", str(SEED)),
            *("--persist", "2", "--deliver", "2", "--ws", "1", "--listeners", "50"),
        ],
        cwd=_ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    # Long, and all that there is to see when it fails.
    print(storm.stderr)
    assert storm.stdout, "the storm did not come to its end"
    told = json.loads(storm.stdout)
    record_property("storm", told)
    assert told["lost"] == []
    assert (storm.returncode, told["ok"]) == (0, True)
    assert told["confirmed"] == told["messages"] == MESSAGES
    assert sum(told["faults"].values()) >= MESSAGES / PER_S / 3
