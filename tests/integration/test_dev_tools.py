"""`make setup` and `make kafka` where something is missing or breaks half way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from notifyd.dev.kafka import find_jars

ROOT = Path(__file__).resolve().parents[2]


class Place:
    """A copy of the tools, with programs of our own in front of the path."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "repo"
        self.programs = directory / "programs"
        self.programs.mkdir()
        shutil.copytree(ROOT / "tools", self.root / "tools")
        for name in ("constraints.txt", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)

    def fake(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, tool: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{self.programs}:/usr/bin:/bin", "PYTHON": ""}
        return subprocess.run(
            ["sh", tool], cwd=self.root, env=env, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Nothing was fetched or installed here yet."""
    found = Place(tmp_path)
    found.fake("java", "exit 0")
    found.fake("sleep", "exit 0")
    return found


#: Finds the folder that it is told to fill, as Maven does.
_MAVEN = 'for a in "$@"; do case $a in -DoutputDirectory=*) out=${a#*=};; esac; done; echo run >>"$0.runs";'


def test_a_fetch_that_breaks_leaves_nothing_and_the_next_one_completes_it(place: Place) -> None:
    place.fake("mvn", f'{_MAVEN} touch "$out/half.jar"; echo "cannot reach it"; exit 1')
    broken = place.run("tools/kafka/fetch.sh")
    assert broken.returncode == 1
    assert "could not fetch it in 3 attempts" in broken.stderr
    assert list((place.root / ".kafka").iterdir()) == []

    place.fake("mvn", f'{_MAVEN} touch "$out/kafka_2.13-4.jar"')
    assert place.run("tools/kafka/fetch.sh").returncode == 0
    libs = place.root / ".kafka" / "libs"
    assert find_jars(place.root) == libs
    assert (libs / "kafka_2.13-4.jar").is_file()
    assert not (libs / "half.jar").exists()


def test_what_is_there_is_not_fetched_again_until_the_version_changes(place: Place) -> None:
    place.fake("mvn", f'{_MAVEN} touch "$out/kafka_2.13-4.jar"')
    place.run("tools/kafka/fetch.sh")
    runs = place.programs / "mvn.runs"
    again = place.run("tools/kafka/fetch.sh")
    assert "already" in again.stdout
    assert runs.read_text().count("run") == 1

    pom = place.root / "tools" / "kafka" / "pom.xml"
    pom.write_text(pom.read_text().replace("<kafka.version>", "<kafka.version>9"))
    place.run("tools/kafka/fetch.sh")
    assert runs.read_text().count("run") == 2
    assert len(list((place.root / ".kafka").iterdir())) == 1


def test_without_a_python_that_fits_one_line_says_what_to_do(place: Place) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        place.fake(name, "exit 1")
    done = place.run("tools/setup.sh")
    assert done.returncode == 1
    assert "no Python 3.11 or later" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (place.root / ".venv" / "bin").exists()
