"""The image starts the program as the manifests say, and its recipe keeps the rules for such recipes."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

from notifyd.version import VERSION
from tests.fixtures.manifests import pod_templates

_ROOT = Path(__file__).resolve().parents[3]
_DOCKERFILE = _ROOT / "Dockerfile"


def _lines() -> list[str]:
    return _DOCKERFILE.read_text().splitlines()


def test_the_image_starts_the_program_itself_and_not_as_root() -> None:
    (entry,) = (line for line in _lines() if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["notifyd"]
    user = next(line for line in _lines() if line.startswith("USER")).split()[1]
    for template in pod_templates("prod").values():
        context = template["spec"]["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert "STOPSIGNAL SIGTERM" in _lines()


def test_the_recipe_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, _DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_says_which_release_it_is() -> None:
    assert f"ARG VERSION={VERSION}" in _lines()


def test_the_base_is_for_the_builder_to_choose() -> None:
    froms = [line.split()[1] for line in _lines() if line.startswith("FROM")]
    assert set(froms) == {"${BASE}"}
    assert re.search(r"^ARG BASE=\S+$", _DOCKERFILE.read_text(), re.MULTILINE)


def test_the_lock_has_a_hash_for_all_that_the_program_needs_in_the_versions_of_development() -> None:
    locked = _pins(_ROOT / "requirements.lock")
    assert locked.items() <= _pins(_ROOT / "constraints.txt").items(), "make lock"
    assert _pins(_ROOT / "requirements-build.lock") == {
        "setuptools": _pins(_ROOT / "constraints.txt")["setuptools"]
    }
    text = (_ROOT / "requirements.lock").read_text()
    assert re.findall(r"==\S+ *(?!\\)$", text, re.MULTILINE) == []
    config = configparser.ConfigParser()
    config.read(_ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = "\n".join([config["options"]["install_requires"], extras["otel"], extras["apprise"]]).split("\n")
    wanted = {_name(line) for line in lines if line.strip()}
    assert wanted <= locked.keys(), "make lock"


def _pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {_name(name): version for name, version in found}


def _name(requirement: str) -> str:
    """Return the name as package indexes spell it."""
    (name,) = re.findall(r"^[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()
