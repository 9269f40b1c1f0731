"""The network policies let each role reach what its settings name, and nobody anything else."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from notifyd.roles.names import ROLES
from notifyd.settings import load_settings
from tests.fixtures.manifests import (
    containers,
    environment,
    is_selected,
    of_kind,
    pod_templates,
)

_POSTGRES, _WEB, _MAIL = {5432}, {443}, {465, 587}
#: Everybody: names, Kafka, spans.
_ALL = {53, 9092, 9093, 4318}
#: What each pod may open a connection to, by port.
_EGRESS = {
    "notifyd-api": _ALL | _POSTGRES | _WEB,
    "notifyd-deliver": _ALL | _WEB | _MAIL,
    "notifyd-persist": _ALL | _POSTGRES,
    "notifyd-prepare": _ALL | _POSTGRES,
    "notifyd-retention": _ALL | _POSTGRES,
    "notifyd-sweep": _ALL | _POSTGRES | _WEB,
    "notifyd-ws": _ALL | _POSTGRES | _WEB,
}


def _policies(overlay: str, name: str) -> list[dict[str, Any]]:
    labels = pod_templates(overlay)[name]["metadata"]["labels"]
    found = of_kind(overlay, "NetworkPolicy")
    return [one["spec"] for one in found if is_selected(one["spec"]["podSelector"], labels)]


def _rules(overlay: str, name: str, way: str) -> list[dict[str, Any]]:
    return [rule for policy in _policies(overlay, name) for rule in policy.get(way, [])]


def _ports(rules: list[dict[str, Any]]) -> set[Any]:
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_what_is_not_named_is_denied(overlay: str) -> None:
    for name, ports in _EGRESS.items():
        types = {kind for policy in _policies(overlay, name) for kind in policy["policyTypes"]}
        assert types == {"Ingress", "Egress"}
        assert _ports(_rules(overlay, name, "egress")) == ports
        is_public = name in {"notifyd-api", "notifyd-ws"}
        assert _ports(_rules(overlay, name, "ingress")) == ({"admin", "http"} if is_public else {"admin"})


def test_metrics_are_for_monitoring_alone_and_no_rule_is_for_all_ports() -> None:
    overlay = "prod"
    for name in _EGRESS:
        for way in ("ingress", "egress"):
            assert all(rule["ports"] for rule in _rules(overlay, name, way))
        (admin,) = (rule for rule in _rules(overlay, name, "ingress") if rule["ports"] == [{"port": "admin"}])
        (source,) = admin["from"]
        assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_a_pod_reaches_the_servers_that_its_settings_name(overlay: str) -> None:
    for name in _EGRESS:
        for container in containers(pod_templates(overlay)[name]):
            settings = load_settings(environment(overlay, container))
            wanted = {int(host.rsplit(":", 1)[1]) for host in settings.kafka_bootstrap_servers.split(",")}
            # In development everybody gets the one Secret, deliver too.
            if settings.database_url is not None and (overlay, name) != ("dev", "notifyd-deliver"):
                wanted.add(urlsplit(settings.database_url.get_secret_value()).port or 5432)
            if settings.jwt_jwks_url is not None and name in {"notifyd-api", "notifyd-ws"}:
                wanted.add(urlsplit(settings.jwt_jwks_url).port or 443)
            assert wanted <= _ports(_rules(overlay, name, "egress"))


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_a_webhook_reaches_no_private_address_and_no_metadata_service(overlay: str) -> None:
    web = [r for r in _rules(overlay, "notifyd-deliver", "egress") if {"port": 443} in r.get("ports", [])]
    (rule,) = web
    v4, v6 = (peer["ipBlock"] for peer in rule["to"])
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8"} <= set(
        v4["except"]
    )
    assert {"fc00::/7", "fe80::/10", "::1/128"} <= set(v6["except"])


def test_every_role_is_looked_at() -> None:
    assert {f"notifyd-{role}" for role in ROLES} <= _EGRESS.keys()
