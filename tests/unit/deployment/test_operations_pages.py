"""Every command of the pages for operators names files, objects and options that there are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from notifyd.cli.main import build_app
from tests.fixtures.manifests import K8S, OVERLAYS, containers, is_selected, rendered

_ROOT = K8S.parent
_PAGES = [
    _ROOT / "docs/how-to" / f"{name}.md"
    for name in (
        "install-on-kubernetes",
        "size",
        "upgrade",
        "drain-a-node",
        "rotate-secrets",
        "back-up",
        "kafka-faults",
    )
]
_NAMESPACES = {"notifyd-dev": "dev", "notifyd": "prod"}
#: What others bring; that it is spelt right is all that is looked at.
_FOREIGN = {
    "docker build",
    "kind create",
    "kind load",
    "kafka-configs.sh",
    "kafka-consumer-groups.sh",
    "kafka-topics.sh",
    "pg_dump",
    "pg_restore",
    "psql",
}
_KINDS = {
    "deploy": "Deployment",
    "deployment": "Deployment",
    "job": "Job",
    "svc": "Service",
    "hpa": "HorizontalPodAutoscaler",
    "scaledobject": "ScaledObject",
    "pdb": "PodDisruptionBudget",
}


def _blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page in _PAGES:
        for block in _blocks(page, "sh"):
            for line in block.splitlines():
                if words := shlex.split(line, comments=True):
                    yield page.name, words


def _program(words: list[str]) -> None:
    """Check the words after `notifyd` against the command line as it is."""
    command: Any = typer.main.get_command(build_app())
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    known = {opt for parameter in command.params for opt in parameter.opts}
    assert {word for word in rest if word.startswith("-") and word != "-"} <= known


def _folder(words: list[str]) -> str:
    """Return the overlay that `-k` names."""
    path = Path(words[words.index("-k") + 1])
    assert path.parent == Path("k8s/overlays")
    assert path.name in OVERLAYS
    return path.name


def _objects(overlay: str, words: list[str]) -> None:
    """Check every `kind/name`, and every name after a kind, against what the overlay makes."""
    named = [tuple(word.split("/", 1)) for word in words if re.fullmatch(r"[a-z]+/notifyd-[a-z]+", word)]
    kinds = [word for word in words if word in _KINDS]
    for kind in kinds:
        named += [(kind, word) for word in words[words.index(kind) + 1 :] if word.startswith("notifyd-")]
    there = {(one["kind"], one["metadata"]["name"]) for o in (overlay, "prod-keda") for one in rendered(o)}
    for kind, name in named:
        assert (_KINDS[kind], name) in there, f"{overlay} has no {kind}/{name}"


def _kubectl(words: list[str]) -> None:
    if words[0] == "-n":
        namespace, words = words[1], words[2:]
        if "exec" in words:
            inner = words[words.index("--") + 1 :]
            assert inner[0] == "notifyd"
            _program(inner[1:])
            words = words[: words.index("--")]
        _objects(_NAMESPACES[namespace], words)
    if "-k" in words:
        assert words[0] in {"apply", "delete", "diff"}
        assert rendered(_folder(words))
    elif words[0] == "kustomize":
        assert rendered(_folder(["-k", *words[1:]]))
    verbs = "apply annotate delete diff drain exec get kustomize port-forward rollout scale top wait"
    assert words[0] in verbs.split()


@pytest.mark.parametrize("page", [page.name for page in _PAGES])
def test_every_command_names_what_there_is(page: str) -> None:
    commands = [words for name, words in _commands() if name == page]
    assert commands
    for words in commands:
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words[0] == "export":
            continue
        for word in words:
            # Paths of ours: files that are there, or are about to be made of files that are.
            if word.startswith("k8s/") and not word.endswith("/secrets"):
                assert (_ROOT / word).exists(), word
        if words[0] == "kubectl":
            _kubectl(words[1:])
        elif words[0] == "notifyd":
            _program(words[1:])
        elif words[0] == "cp":
            assert f"{words[-1]}/" in (_ROOT / ".gitignore").read_text().splitlines()
        elif words[0].startswith("k8s/"):
            assert os.access(_ROOT / words[0], os.X_OK)
        else:
            assert {words[0], " ".join(words[:2])} & _FOREIGN, words


def test_the_image_that_the_page_builds_is_the_one_that_dev_runs() -> None:
    built = {word for _, words in _commands() for word in words if word.startswith("notifyd:")}
    (deployment, *_) = (one for one in rendered("dev") if one["kind"] == "Deployment")
    assert built == {container["image"] for container in containers(deployment["spec"]["template"])}


def test_what_an_upgrade_applies_first_needs_nothing_of_what_it_applies_later() -> None:
    selectors = {
        words[words.index("-l") + 1] for _, words in _commands() if "-l" in words and "apply" in words
    }
    assert selectors == {"app.kubernetes.io/component in (config, prepare)"}
    wanted = {"key": "app.kubernetes.io/component", "operator": "In", "values": ["config", "prepare"]}
    chosen = [
        one
        for one in rendered("prod")
        if is_selected({"matchExpressions": [wanted]}, one["metadata"].get("labels", {}))
    ]
    assert {one["kind"] for one in chosen} == {"ConfigMap", "Secret", "Job"}
    (job,) = (one for one in chosen if one["kind"] == "Job")
    there = {one["metadata"]["name"] for one in chosen}
    for container in containers(job["spec"]["template"]):
        assert {ref["name"] for source in container["envFrom"] for ref in source.values()} <= there


def test_an_overlay_of_ones_own_as_the_page_has_it_renders(tmp_path: Path) -> None:
    (text,) = _blocks(_PAGES[0], "yaml")
    shutil.copytree(K8S, tmp_path / "notifyd/k8s", ignore=shutil.ignore_patterns("secrets"))
    prod = tmp_path / "notifyd/k8s/overlays/prod"
    shutil.copytree(prod / "secrets.example", prod / "secrets")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(text)
    (tmp_path / "mine/ca.crt").write_text("an authority")
    command = [Path(sys.executable).with_name("kubectl"), "kustomize", tmp_path / "mine"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))
    (authorities,) = (one["metadata"]["name"] for one in documents if "ca.crt" in one.get("data", {}))
    for deployment in (one for one in documents if one["kind"] == "Deployment"):
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        assert {"name": authorities, "optional": True} in [volume.get("configMap") for volume in volumes]
    configs = [one["data"] for one in documents if one["kind"] == "ConfigMap"]
    (servers,) = {
        d["NOTIFYD_KAFKA_BOOTSTRAP_SERVERS"] for d in configs if "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS" in d
    }
    assert servers == "kafka.internal:9093"
    images = {
        c["image"] for d in documents if d["kind"] == "Deployment" for c in containers(d["spec"]["template"])
    }
    assert {image.rpartition(":")[0] for image in images} == {"registry.internal/notifyd"}


@pytest.mark.parametrize("page", [page.name for page in _PAGES])
def test_links_lead_somewhere(page: str) -> None:
    path = _ROOT / "docs/how-to" / page
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text())
    assert links
    for target, anchor in links:
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, (
                anchor
            )
