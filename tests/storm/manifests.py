"""What the manifests say of the life of a pod: surge, probes, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.fixtures.manifests import deployment_of, environment, named

#: Of the settings, what has to do with the life of a process; addresses and names are a trial's own.
_LIFE = ("NOTIFYD_DRAIN_S", "NOTIFYD_GRACE_S")


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe as the kubelet runs it."""

    path: str
    initial_delay_s: float
    period_s: float
    timeout_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One Deployment. `waits_for_schema`: an init container runs `notifyd migrate --check`."""

    role: str
    max_surge: str
    max_unavailable: str
    min_ready_s: float
    pre_stop_s: float
    grace_s: float
    startup: Probe | None
    readiness: Probe
    liveness: Probe
    waits_for_schema: bool
    #: How many may be away by an eviction.
    may_be_evicted: int
    env: Mapping[str, str]

    def surge(self, replicas: int) -> int:
        """Return how many more than `replicas` there may be; a percentage is rounded up."""
        return _count(self.max_surge, replicas, math.ceil)

    def unavailable(self, replicas: int) -> int:
        """Return how many of `replicas` may be missing; a percentage is rounded down."""
        return _count(self.max_unavailable, replicas, math.floor)


def _count(value: str, replicas: int, rounded: Any) -> int:
    if value.endswith("%"):
        return int(rounded(replicas * int(value[:-1]) / 100))
    return int(value)


def read_rollout(role: str, overlay: str = "prod") -> Rollout:
    """Read the Deployment of a role as an overlay renders it."""
    deployment = deployment_of(overlay, role)
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    strategy = spec["strategy"]["rollingUpdate"]
    startup = container.get("startupProbe")
    return Rollout(
        role=role,
        max_surge=str(strategy["maxSurge"]),
        max_unavailable=str(strategy["maxUnavailable"]),
        min_ready_s=float(spec.get("minReadySeconds", 0)),
        pre_stop_s=_pre_stop_s(container),
        grace_s=float(pod.get("terminationGracePeriodSeconds", 30)),
        startup=_probe(startup) if startup else None,
        readiness=_probe(container["readinessProbe"]),
        liveness=_probe(container["livenessProbe"]),
        may_be_evicted=int(
            named(overlay, "PodDisruptionBudget", f"notifyd-{role}")["spec"]["maxUnavailable"]
        ),
        waits_for_schema=any("--check" in one["args"] for one in pod.get("initContainers", ())),
        env={name: value for name, value in environment(overlay, container).items() if name in _LIFE},
    )


def _pre_stop_s(container: Mapping[str, Any]) -> float:
    hook = container.get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0.0
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command, seconds = hook["exec"]["command"]
    assert command == "sleep", hook
    return float(seconds)


def _probe(spec: Mapping[str, Any]) -> Probe:
    return Probe(
        path=spec["httpGet"]["path"],
        initial_delay_s=float(spec.get("initialDelaySeconds", 0)),
        period_s=float(spec.get("periodSeconds", 10)),
        timeout_s=float(spec.get("timeoutSeconds", 1)),
        failures=int(spec.get("failureThreshold", 3)),
    )
