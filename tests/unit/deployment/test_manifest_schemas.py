"""Every document fits the schemas of Kubernetes, KEDA and Prometheus's operator, and what they leave open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.fixtures.manifests import OVERLAYS, rendered

#: The oldest that the manifests are for, one between, the newest that there is a schema of.
VERSIONS = ["1.30", "1.33", "1.37"]
#: Of the CRD catalogue of datree.io (LICENSE beside them).
_CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobject_v1alpha1.json",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor_v1.json",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule_v1.json",
}
_FOLDER = Path(__file__).resolve().parents[2] / "fixtures/schemas"

#: The schemas call these strings, and the API server takes no other; by the last names of the path to them.
_CHOICES = {
    "strategy.type": {"RollingUpdate", "Recreate"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "seccompProfile.type": {"RuntimeDefault", "Localhost", "Unconfined"},
    "drop": {"ALL"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "unhealthyPodEvictionPolicy": {"IfHealthyBudget", "AlwaysAllow"},
    "policyTypes": {"Ingress", "Egress"},
    "ports.protocol": {"TCP", "UDP", "SCTP"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist"},
    "selectPolicy": {"Max", "Min", "Disabled"},
    "policies.type": {"Pods", "Percent"},
    "metrics.type": {"Resource", "ContainerResource", "Pods", "Object", "External"},
    "target.type": {"Utilization", "Value", "AverageValue"},
    "triggers.type": {"prometheus"},
    "metricType": {"Utilization", "Value", "AverageValue"},
    "accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "pod-security.kubernetes.io/enforce": {"privileged", "baseline", "restricted"},
}
_QUANTITIES = ("memory", "cpu", "storage", "sizeLimit", "averageValue", "value")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")


def _documents() -> list[dict[str, Any]]:
    """Return what the overlays render, each document once."""
    found = {json.dumps(one, sort_keys=True): one for overlay in OVERLAYS for one in rendered(overlay)}
    return list(found.values())


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node


@pytest.fixture(scope="module", autouse=True)
def _schemas_read_once() -> Iterator[None]:
    """Keep what kubernetes-validate otherwise reads anew for each document, a megabyte each time."""
    read, kept = utils.schema_contents, {}

    def schema_contents(filename: str, desired_version: str) -> Any:
        if filename not in kept:
            kept[filename] = read(filename, desired_version)
        return kept[filename]

    utils.schema_contents = schema_contents
    yield
    utils.schema_contents = read


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_document_and_knows_every_field(version: str) -> None:
    for document in _documents():
        if (document["apiVersion"], document["kind"]) not in _CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("kind", _CUSTOM, ids=lambda kind: kind[1])
def test_operators_take_their_own_kinds(kind: tuple[str, str]) -> None:
    validator = jsonschema_rs.validator_for(json.loads((_FOLDER / _CUSTOM[kind]).read_text()))
    for document in _documents():
        if (document["apiVersion"], document["kind"]) == kind:
            validator.validate(document)


def test_words_that_the_schemas_leave_open_are_ones_that_the_server_takes() -> None:
    met = set()
    for document in _documents():
        for path, value in _leaves(document):
            where = ".".join(path)
            for name, choices in _CHOICES.items():
                if f".{where}".endswith(f".{name}"):
                    met.add(name)
                    assert value in choices, f"{document['metadata']['name']}: {where}"
    assert met == _CHOICES.keys(), "no manifest has these any more"


def test_quantities_can_be_read() -> None:
    for document in _documents():
        for path, value in _leaves(document.get("spec", {})):
            is_one = path[-1] in _QUANTITIES and "env" not in path
            assert not is_one or _QUANTITY.fullmatch(str(value)), f"{document['metadata']['name']}: {path}"
