"""Small storms of push: nobody misses anything while networks, ws processes and the database fail.

`python -m tests.storm.push` and `python -m tests.storm.drain` are the same at full size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.processes import clean_environment

_ROOT = Path(__file__).resolve().parents[2]
DEVICES = 200
SEED = "20261124"


def raise_storm(module: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """Run one to its end, and return what it told."""
    storm = subprocess.run(
        [
            *(sys.executable, "-m", module, "--json", "--directory", str(directory)),
            *("--seed", SEED, "--parties", "1", *arguments),
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
    told: dict[str, Any] = json.loads(storm.stdout)
    assert (told["lost"], told["problems"]) == ([], [])
    assert (storm.returncode, told["ok"]) == (0, True)
    return told


@pytest.mark.timeout(600)
@pytest.mark.needs_kafka("groups of several processes join too slowly on the embedded broker")
def test_devices_miss_nothing_while_networks_processes_and_the_database_fail(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    told = raise_storm(
        "tests.storm.push",
        tmp_path / "storm",
        *("--devices", str(DEVICES), "--minutes", "0.5", "--rate", "60", "--database", "8"),
        *("--window", "5", "--every", "4-8", "--trouble", "10"),
    )
    record_property("storm", told)
    assert told["received"] == told["deliveries"] > told["messages"] == 1800
    assert told["devices"] == DEVICES
    # It was a storm: networks were cut, processes killed and rolled, and somebody was sent the past.
    assert told["faults"]["kill"] >= 1
    assert told["faults"]["term"] > 3
    assert told["troubles"]["cut"] > 50
    assert told["sessions"] > 2 * DEVICES
    assert told["replayed"] > 0
    assert told["welcomes"]["later"] > 0


@pytest.mark.timeout(300)
@pytest.mark.needs_kafka("groups of several processes join too slowly on the embedded broker")
def test_a_process_that_ends_sends_its_devices_to_another_over_its_window(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    told = raise_storm("tests.storm.drain", tmp_path / "drain", "--devices", "300", "--drain", "10")
    record_property("drain", told)
    assert told["received"] == told["deliveries"] > 0
    assert sum(told["opened_per_s"]) == 300
