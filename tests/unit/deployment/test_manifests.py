"""The Kubernetes manifests and the image say what the program understands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from notifyd.cli.main import build_app
from notifyd.roles.names import ROLES, parse_roles
from notifyd.settings import load_settings, unknown_variables

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _all() -> list[dict[str, Any]]:
    return [d for path in sorted(K8S.glob("*.yaml")) for d in _documents(path)]


def _of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in _all() if document["kind"] == kind]


def _pods() -> list[Any]:
    found = [*_of_kind("Deployment"), *_of_kind("Job")]
    return [pytest.param(d["spec"]["template"]["spec"], id=d["metadata"]["name"]) for d in found]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _configured() -> dict[str, str]:
    return {**_of_kind("ConfigMap")[0]["data"], **_of_kind("Secret")[0]["stringData"]}


def _seconds(command: list[str]) -> float:
    assert command[0] == "sleep"
    return float(command[1])


def test_every_variable_is_a_setting_and_every_value_is_accepted() -> None:
    env = {**_configured(), "NOTIFYD_POD_NAME": "notifyd-ws-0"}
    assert unknown_variables(env) == []
    assert load_settings(env).kafka_bootstrap_servers.count(",") == 2


def test_every_role_has_a_deployment_of_its_own() -> None:
    roles = []
    for deployment in _of_kind("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        (argument,) = container["args"]
        name, _, value = argument.partition("=")
        assert name == "--role"
        roles += parse_roles(value)
        assert deployment["metadata"]["name"] == f"notifyd-{value}"
    assert sorted(roles) == sorted(ROLES)


def test_the_job_runs_commands_that_exist() -> None:
    root = typer.main.get_command(build_app())
    (job,) = _of_kind("Job")
    for container in _containers(job["spec"]["template"]["spec"]):
        command: Any = root
        for word in container["args"]:
            command = command.commands[word]


@pytest.mark.parametrize("pod", _pods())
def test_a_pod_gets_no_service_links_and_no_rights(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in _containers(pod):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
        assert {"secretRef": {"name": "notifyd"}} in container["envFrom"]


@pytest.mark.parametrize("deployment", _of_kind("Deployment"), ids=lambda d: d["metadata"]["name"])
def test_a_stop_has_time_to_drain_and_probes_ask_the_admin_port(deployment: dict[str, Any]) -> None:
    settings = load_settings(_configured())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert pod["terminationGracePeriodSeconds"] > settings.grace_s + _seconds(before)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["admin"] == settings.admin_port
    assert ports.get("http", settings.http_port) == settings.http_port
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_services_and_budgets_select_the_pods_of_a_deployment() -> None:
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in _of_kind("Deployment")]
    budgets = [b["spec"]["selector"]["matchLabels"] for b in _of_kind("PodDisruptionBudget")]
    assert sorted(budgets, key=str) == sorted(labels, key=str)
    for service in _of_kind("Service"):
        assert service["spec"]["selector"] in labels


def test_a_service_leads_to_a_port_of_its_pods() -> None:
    ports = {
        str(d["spec"]["template"]["metadata"]["labels"]): {
            port["name"] for port in d["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        for d in _of_kind("Deployment")
    }
    for service in _of_kind("Service"):
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        assert targets <= ports[str(service["spec"]["selector"])]


def test_an_autoscaler_has_its_deployment_to_itself_and_only_scales_up() -> None:
    deployments = {d["metadata"]["name"]: d["spec"] for d in _of_kind("Deployment")}
    for scaler in _of_kind("HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        assert "replicas" not in deployments.pop(spec["scaleTargetRef"]["name"])
        assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
        assert spec["behavior"]["scaleDown"]["selectPolicy"] == "Disabled"
    assert all(spec["replicas"] >= 2 for spec in deployments.values())


def test_the_kustomization_lists_every_manifest_but_the_example() -> None:
    (kustomization,) = _documents(K8S / "kustomization.yaml")
    files = {path.name for path in K8S.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(kustomization["resources"]) == files


def test_the_image_starts_the_program_itself_and_not_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["notifyd"]
    user = next(line for line in lines if line.startswith("USER")).split()[1]
    pod = _of_kind("Deployment")[0]["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert "STOPSIGNAL SIGTERM" in lines
