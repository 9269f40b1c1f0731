"""What the page about Kubernetes has a newcomer run in the pods of `dev` works with what these pods get."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from notifyd.settings import Settings
from tests.fixtures.kafka import environment_of
from tests.fixtures.manifests import K8S, deployment_of, environment
from tests.fixtures.processes import NotifydProcess
from tests.fixtures.service import Service, with_database
from tests.fixtures.waiting import wait_until

_PAGE = K8S.parent / "docs/how-to/install-on-kubernetes.md"
_IN_A_POD = re.compile(
    r"^kubectl -n notifyd-dev exec (?:-it )?deploy/notifyd-(\w+) -- notifyd (.*)$", re.MULTILINE
)


def _of_pod(role: str, here: Settings) -> dict[str, str]:
    """Return what a pod of `dev` gets, with the servers of this test in the place of the cluster's."""
    (container,) = deployment_of("dev", role)["spec"]["template"]["spec"]["containers"]
    found = environment("dev", container)
    del found["NOTIFYD_POD_NAME"]  # each its own
    servers = {**environment_of(here), "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": here.kafka_bootstrap_servers}
    # Whatever names a secret stays the pod's own: commands sign with what roles verify with.
    return {**found, **{name: value for name, value in servers.items() if "JWT" not in name}}


def test_a_newcomer_sends_sees_and_traces_a_message_in_the_pods_of_dev(
    service: Service, settings: Settings, database_url: str, tmp_path: Path
) -> None:
    here = with_database(settings, database_url)
    pods: dict[str, NotifydProcess] = {}
    for role in ("ws", "persist", "api"):
        pods[role] = service.role(role, **_of_pod(role, here))
    for pod in pods.values():
        pod.wait_ready()
    commands = [
        (role, shlex.split(line, comments=True)) for role, line in _IN_A_POD.findall(_PAGE.read_text())
    ]
    assert [words[0] for _, words in commands] == ["listen", "send", "trace", "token"]

    (_, listen), (_, send), (_, trace), (_, token) = commands
    env = _of_pod("ws", here) | {"NOTIFYD_HTTP_PORT": str(pods["ws"].port("http"))}
    listener = NotifydProcess(listen, env, tmp_path, "listen").start()
    try:
        wait_until(lambda: pods["ws"].metric("notifyd_ws_connections") == 1, what="the listener")
        sent = service.run(*send, **_of_pod("api", here))
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: "Hi" in listener.output, what="the message on the other terminal")
    finally:
        listener.close()
    (message_id,) = set(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", sent.stdout))
    life = service.run(*[message_id if word == "UUID" else word for word in trace], **_of_pod("api", here))
    assert "alice by ws: acked" in life.stdout, life.stderr
    assert service.run(*token, **_of_pod("api", here)).stdout.count(".") == 2
