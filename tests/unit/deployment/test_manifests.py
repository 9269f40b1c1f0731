"""What a cluster gets of each overlay is what the program understands, and keeps what it promises."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from notifyd.cli.main import build_app
from notifyd.http.health import Health
from notifyd.http.server import admin_app
from notifyd.metrics import Metrics
from notifyd.roles.names import ROLES, parse_roles
from notifyd.roles.process import _role_class
from notifyd.settings import Settings, load_settings, unknown_variables
from notifyd.version import VERSION
from tests.fixtures.manifests import (
    K8S,
    containers,
    deployment_of,
    environment,
    is_selected,
    of_kind,
    pod_templates,
    rendered,
)

_NAMES = [*(f"notifyd-{role}" for role in ROLES), "notifyd-prepare", "notifyd-retention"]

#: prod-keda is prod but for its autoscalers, which one test holds for all others.
each_overlay = pytest.mark.parametrize("overlay", ["dev", "prod"])


def _container(overlay: str, role: str) -> dict[str, Any]:
    (container,) = deployment_of(overlay, role)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _settings(overlay: str, role: str) -> Settings:
    return load_settings(environment(overlay, _container(overlay, role)))


def _labels(overlay: str, name: str) -> dict[str, str]:
    return dict(pod_templates(overlay)[name]["metadata"]["labels"])


def _pre_stop_s(container: dict[str, Any]) -> float:
    command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert command[0] == "sleep"
    return float(command[1])


def test_both_ways_to_scale_go_the_same_way() -> None:
    plain, keda = ({name: rest for name, *rest in _scalers(overlay)} for overlay in ("prod", "prod-keda"))
    assert plain == keda


def test_keda_takes_the_place_of_three_autoscalers_and_of_nothing_else() -> None:
    kinds = {"HorizontalPodAutoscaler", "ScaledObject"}
    plain, keda = (
        [d for d in rendered(overlay) if d["kind"] not in kinds] for overlay in ("prod", "prod-keda")
    )
    assert plain == keda
    assert [d["metadata"]["name"] for d in of_kind("prod-keda", "HorizontalPodAutoscaler")] == ["notifyd-api"]


# What runs


@each_overlay
def test_every_role_has_a_deployment_of_its_own(overlay: str) -> None:
    assert sorted(pod_templates(overlay)) == sorted(_NAMES)
    for role in ROLES:
        (argument,) = _container(overlay, role)["args"]
        name, _, value = argument.partition("=")
        assert (name, parse_roles(value)) == ("--role", (role,))


@each_overlay
def test_who_needs_the_schema_waits_until_it_is_there(overlay: str) -> None:
    for role in ROLES:
        pod = deployment_of(overlay, role)["spec"]["template"]["spec"]
        before = [container["args"] for container in pod.get("initContainers", [])]
        assert before == ([["migrate", "--check"]] if role in {"persist", "sweep"} else [])


@each_overlay
def test_what_ends_by_itself_runs_a_command_that_exists(overlay: str) -> None:
    for name in _NAMES:
        for container in containers(pod_templates(overlay)[name]):
            if container["args"][0].startswith("--role="):
                continue
            command: Any = typer.main.get_command(build_app())
            options = {word for word in container["args"] if word.startswith("-")}
            for word in container["args"]:
                if word not in options:
                    command = command.commands[word]
            assert options <= {opt for parameter in command.params for opt in parameter.opts}
            assert not hasattr(command, "commands"), "it names a group of commands"


@each_overlay
def test_retention_runs_daily_and_never_beside_itself(overlay: str) -> None:
    (cron,) = of_kind(overlay, "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    minute, hour, *days = cron["spec"]["schedule"].split()
    assert (minute.isdigit(), hour.isdigit(), days) == (True, True, ["*", "*", "*"])


@each_overlay
def test_all_run_one_image_and_in_production_that_of_this_release(overlay: str) -> None:
    (image,) = {c["image"] for template in pod_templates(overlay).values() for c in containers(template)}
    assert image == ("notifyd:dev" if overlay == "dev" else f"registry.example.com/notifyd:{VERSION}")


# Settings


@each_overlay
def test_every_variable_is_a_setting_and_every_value_is_accepted(overlay: str) -> None:
    for name in _NAMES:
        for container in containers(pod_templates(overlay)[name]):
            env = environment(overlay, container)
            assert unknown_variables(env) == []
            assert load_settings({**env, "NOTIFYD_SETTINGS_STRICT": "true"}).topic_partitions > 0
            # A rollback meets a newer ConfigMap.
            assert env["NOTIFYD_SETTINGS_STRICT"] == "false"


@each_overlay
def test_a_role_starts_with_the_settings_that_it_gets(overlay: str) -> None:
    for role in ROLES:
        # How many descriptors there are is for the node to say.
        env = environment(overlay, _container(overlay, role))
        _role_class(role).check(load_settings(env, ws_max_connections=0), Metrics())


def test_what_the_examples_of_secrets_leave_out_are_settings_too() -> None:
    examples = sorted((K8S / "overlays/prod/secrets.example").glob("*.env"))
    assert [example.stem for example in examples] == sorted({*ROLES, "prepare"})
    for example in examples:
        names = re.findall(r"^(?:# )?(NOTIFYD_\w+)=", example.read_text(), re.MULTILINE)
        assert len(names) >= 2
        assert unknown_variables(dict.fromkeys(names, "")) == []


@each_overlay
def test_a_change_of_config_or_secret_is_a_rolling_update(overlay: str) -> None:
    for name in _NAMES:
        for container in containers(pod_templates(overlay)[name]):
            refs = [ref["name"] for source in container["envFrom"] for ref in source.values()]
            # Of what it says, as kustomize writes it.
            assert [re.sub(r"-[a-z0-9]{10}$", "-CHECKSUM", ref) for ref in refs] == [
                "notifyd-CHECKSUM",
                f"{'notifyd-prepare' if name == 'notifyd-retention' else name}-CHECKSUM",
            ]


def test_in_production_each_role_has_accounts_of_its_own() -> None:
    settings = {role: _settings("prod", role) for role in ROLES}
    assert len({one.kafka_sasl_username for one in settings.values()}) == len(ROLES)
    urls = {one.database_url.get_secret_value() for one in settings.values() if one.database_url}
    assert len(urls) == len(ROLES) - 1
    assert settings["deliver"].database_url is None


# How a pod lives and ends


@each_overlay
def test_probes_ask_paths_and_ports_that_are_served(overlay: str) -> None:
    for role in ROLES:
        settings, container = _settings(overlay, role), _container(overlay, role)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["admin"] == settings.admin_port
        assert ports.get("http") == (settings.http_port if role in {"ws", "api"} else None)
        served = {route.resource.canonical for route in _admin_routes()}
        assert served >= {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")}
        # Kafka's or the database's trouble restarts nobody, however long it takes to start.
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}


def _admin_routes() -> list[Any]:
    metrics = Metrics()
    return list(admin_app(Health(metrics), metrics).router.routes())


@each_overlay
def test_a_stop_has_time_to_drain(overlay: str) -> None:
    for role in ROLES:
        settings, container = _settings(overlay, role), _container(overlay, role)
        pod = deployment_of(overlay, role)["spec"]["template"]["spec"]
        # The watchdog speaks for a second.
        assert pod["terminationGracePeriodSeconds"] > _pre_stop_s(container) + settings.grace_s + 1
        # Who is connected to by a Service is told of to stop only when it knows.
        assert (_pre_stop_s(container) >= 5) == (role in {"ws", "api"})


@each_overlay
def test_a_rollout_keeps_all_pods_and_shares_partitions_out_twice(overlay: str) -> None:
    for role in ROLES:
        spec = deployment_of(overlay, role)["spec"]
        rolling = spec["strategy"]["rollingUpdate"]
        assert spec["strategy"]["type"] == "RollingUpdate"
        assert rolling["maxUnavailable"] == 0
        assert (rolling["maxSurge"] == "100%") == (role in {"deliver", "persist"})
        assert spec["minReadySeconds"] >= 10


@each_overlay
def test_the_clients_of_one_pod_are_gone_before_the_next_sends_its_own(overlay: str) -> None:
    before_s = _pre_stop_s(_container(overlay, "ws")) + _settings(overlay, "ws").drain_s
    assert deployment_of(overlay, "ws")["spec"]["minReadySeconds"] >= before_s


@each_overlay
def test_a_drain_of_nodes_takes_one_pod_of_a_role_at_a_time(overlay: str) -> None:
    for role in ROLES:
        labels = _labels(overlay, f"notifyd-{role}")
        budgets = [
            b["spec"]
            for b in of_kind(overlay, "PodDisruptionBudget")
            if is_selected(b["spec"]["selector"], labels)
        ]
        assert [(b["maxUnavailable"], b["unhealthyPodEvictionPolicy"]) for b in budgets] == [
            (1, "AlwaysAllow")
        ]
        assert budgets[0]["selector"] == deployment_of(overlay, role)["spec"]["selector"]


@each_overlay
def test_pods_of_a_role_and_release_spread_over_zones_and_nodes(overlay: str) -> None:
    for role in ROLES:
        template = deployment_of(overlay, role)["spec"]["template"]
        spreads = template["spec"]["topologySpreadConstraints"]
        assert [s["topologyKey"] for s in spreads] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for spread in spreads:
            assert is_selected(spread["labelSelector"], template["metadata"]["labels"])
            assert spread["matchLabelKeys"] == ["app.kubernetes.io/component", "pod-template-hash"]


# Rights


@each_overlay
def test_a_pod_keeps_the_restricted_standard_and_has_no_rights(overlay: str) -> None:
    for name in _NAMES:
        pod = pod_templates(overlay)[name]["spec"]
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] == of_kind(overlay, "ServiceAccount")[0]["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
        assert all(set(volume) - {"name"} <= {"emptyDir", "configMap"} for volume in pod["volumes"])
        for container in containers(pod_templates(overlay)[name]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@each_overlay
def test_the_namespace_turns_away_what_is_not_restricted(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = {d["metadata"]["namespace"] for d in rendered(overlay) if d["kind"] != "Namespace"}
    assert inside == {namespace["metadata"]["name"]}


@each_overlay
def test_memory_is_promised_whole_and_cpu_not_cut(overlay: str) -> None:
    for name in _NAMES:
        for container in containers(pod_templates(overlay)[name]):
            resources = container["resources"]
            assert resources["limits"] == {"memory": resources["requests"]["memory"]}
            assert "cpu" in resources["requests"]


def test_a_ca_of_ones_own_is_mounted_by_whoever_opens_connections_and_missed_by_nobody() -> None:
    for template in pod_templates("prod").values():
        (volume,) = (one for one in template["spec"]["volumes"] if "configMap" in one)
        assert volume["configMap"] == {"name": "notifyd-ca", "optional": True}
        for container in containers(template):
            (mount,) = (m for m in container["volumeMounts"] if m["name"] == volume["name"])
            url = load_settings(environment("prod", container)).database_url
            assert url is None or f"sslrootcert={mount['mountPath']}/" in url.get_secret_value()


# Who finds whom


@each_overlay
def test_a_service_leads_to_a_port_of_its_pods(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    assert {service["metadata"]["name"] for service in services} == {"notifyd-api", "notifyd-ws"}
    for service in services:
        role = service["metadata"]["name"].removeprefix("notifyd-")
        assert service["spec"]["selector"] == _labels(overlay, f"notifyd-{role}")
        ports = {port["name"] for port in _container(overlay, role)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_every_role_is_scraped() -> None:
    overlay = "prod"
    (monitor,) = of_kind(overlay, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in {route.resource.canonical for route in _admin_routes()}
    for role in ROLES:
        assert is_selected(monitor["spec"]["selector"], _labels(overlay, f"notifyd-{role}"))
        assert endpoint["port"] in {port["name"] for port in _container(overlay, role)["ports"]}


# How many


def _scalers(overlay: str) -> list[tuple[str, int, int, dict[str, Any]]]:
    """Return the Deployment, the least and most replicas and the behaviour of each autoscaler."""
    found = []
    for one in of_kind(overlay, "HorizontalPodAutoscaler"):
        spec = one["spec"]
        found.append(
            (spec["scaleTargetRef"]["name"], spec["minReplicas"], spec["maxReplicas"], spec["behavior"])
        )
    for one in of_kind(overlay, "ScaledObject"):
        spec = one["spec"]
        assert "idleReplicaCount" not in spec, "it would scale to zero"
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        found.append(
            (spec["scaleTargetRef"]["name"], spec["minReplicaCount"], spec["maxReplicaCount"], behavior)
        )
    return found


@pytest.mark.parametrize("overlay", ["prod", "prod-keda"])
def test_every_role_but_the_one_with_a_leader_scales_up_and_never_down(overlay: str) -> None:
    scalers = _scalers(overlay)
    assert sorted(name for name, *_ in scalers) == sorted(f"notifyd-{r}" for r in ROLES if r != "sweep")
    for name, least, most, behavior in scalers:
        role = name.removeprefix("notifyd-")
        assert 2 <= least < most
        assert behavior["scaleDown"] == {"selectPolicy": "Disabled"}
        # A group has to settle before the next step: nobody takes away what was too much.
        assert ("scaleUp" in behavior) == (role in {"deliver", "persist"})
        # A number of replicas would undo the autoscaler's work at each deploy.
        assert "replicas" not in deployment_of(overlay, role)["spec"]
        if role in {"deliver", "persist"}:
            assert most <= _settings(overlay, role).topic_partitions, (
                "a pod without a partition has nothing to do"
            )
    assert deployment_of(overlay, "sweep")["spec"]["replicas"] == 2


def test_a_drain_of_any_nodes_leaves_every_role_a_pod_that_is_ready() -> None:
    least = {name: pods for name, pods, *_ in _scalers("prod")}
    least["notifyd-sweep"] = deployment_of("prod", "sweep")["spec"]["replicas"]
    for budget in of_kind("prod", "PodDisruptionBudget"):
        assert least.pop(budget["metadata"]["name"]) - budget["spec"]["maxUnavailable"] >= 1
    assert least == {}


def test_autoscalers_have_the_figures_of_the_stress_report() -> None:
    report = (K8S.parent / "docs/reference/stress.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]+ pods) \|$", report, re.MULTILINE))
    found = {}
    for scaler in of_kind("prod", "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        (metric,) = spec["metrics"]
        (target,) = (one["target"] for one in metric.values() if isinstance(one, dict))
        value = target.get("averageValue") or target["value"]
        role = spec["scaleTargetRef"]["name"].removeprefix("notifyd-")
        found[role] = f"{value}, {spec['minReplicas']} to {spec['maxReplicas']} pods"
    assert found == told
