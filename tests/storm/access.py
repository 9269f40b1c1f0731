"""`python -m tests.storm.access`: each role under its own account, with the rights of k8s/access and no more.

Apache Kafka that denies what no ACL allows, PostgreSQL with one account a role, both set up by the scripts;
then messages through all roles. Fails where a role may not do what it must, or may do what it must not.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from aiokafka import AIOKafkaProducer

from notifyd.dev.kafka import LocalKafka
from notifyd.dev.postgres import LocalPostgres
from notifyd.message.ids import new_id
from notifyd.roles.names import ROLES
from notifyd.settings import load_settings
from notifyd.stream.clients import kafka_options
from notifyd.stream.topics import Topics
from tests.fixtures.kafka import JWT_SECRET
from tests.fixtures.manifests import K8S
from tests.fixtures.processes import NotifydProcess, run_notifyd
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import WebhookReceiver

_ACCOUNTS = (*ROLES, "prepare", "operator")
_DATABASE_ACCOUNTS = {"prepare": "owner", "operator": "owner"}


class GuardedKafka(LocalKafka):
    """A node whose clients name themselves, and may do what an ACL allows and nothing else."""

    def _format(self) -> None:
        super()._format()
        users = " ".join(f'user_{name}="secret"' for name in ["admin", *(f"notifyd-{a}" for a in _ACCOUNTS)])
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        more = {
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.plaintext.plain.sasl.jaas.config": (
                f'{login} required username="admin" password="secret" {users};'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The broker itself, by its two listeners.
            "super.users": "User:admin;User:ANONYMOUS",
        }
        with self._config.open("a") as config:
            config.writelines(f"{name}={value}\n" for name, value in more.items())

    def allow(self) -> None:
        """Run the script of the ACLs as an administrator would."""
        admin = self.directory / "admin.properties"
        admin.write_text(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config="
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            'username="admin" password="secret";\n'
        )
        java = [*self._java_command("-Xmx128m"), "org.apache.kafka.tools.AclCommand"]
        command = [*java, "--bootstrap-server", self.bootstrap_servers, "--command-config", str(admin)]
        done = subprocess.run(
            [K8S / "access/kafka-acls.sh"],
            env={**os.environ, "KAFKA_ACLS": " ".join(command)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _grant(url: str) -> dict[str, str]:
    """Run the script of the accounts; return the URL of each."""
    parts = urlsplit(url)
    urls = {}
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute((K8S / "access/postgres.sql").read_text())
        for name in ("owner", "persist", "sweep", "api", "ws"):
            cursor.execute(f"ALTER ROLE notifyd_{name} PASSWORD 'secret'")
            host = f"notifyd_{name}:secret@{parts.hostname}:{parts.port}"
            urls[name] = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return urls


class Access:
    """The surroundings, and the environment of each account."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kafka = GuardedKafka(directory / "kafka")
        self.postgres = LocalPostgres(directory / "postgres")
        self.urls: dict[str, str] = {}
        self.roles: dict[str, NotifydProcess] = {}

    def env(self, account: str) -> Mapping[str, str]:
        """Return what a process of that account gets."""
        env = {
            "NOTIFYD_KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "NOTIFYD_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "NOTIFYD_KAFKA_SASL_MECHANISM": "PLAIN",
            "NOTIFYD_KAFKA_SASL_USERNAME": f"notifyd-{account}",
            "NOTIFYD_KAFKA_SASL_PASSWORD": "secret",
            "NOTIFYD_TOPIC_REPLICATION": "1",
            "NOTIFYD_TOPIC_PARTITIONS": "2",
            "NOTIFYD_JWT_SECRET": JWT_SECRET,
            "NOTIFYD_WEBHOOK_ALLOW_PRIVATE": "true",
            "NOTIFYD_HTTP_HOST": "127.0.0.1",
            "NOTIFYD_ADMIN_HOST": "127.0.0.1",
            "NOTIFYD_SWEEP_CHECK_AFTER_S": "15",
        }
        name = _DATABASE_ACCOUNTS.get(account, account)
        if name in self.urls:
            env["NOTIFYD_DATABASE_URL"] = self.urls[name]
        return env

    def run(self, account: str, *command: str) -> str:
        """Run a command to its end; returns what it printed."""
        done = run_notifyd(*command, env=self.env(account), timeout_s=90)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start everything, in the order of an installation."""
        self.kafka.start()
        self.urls = _grant(self.postgres.start())
        self.kafka.allow()
        self.run("prepare", "topics", "create")
        self.run("prepare", "migrate")
        self.run("prepare", "retention", "run")
        for role in ROLES:
            if role in {"persist", "sweep"}:
                self.run(role, "migrate", "--check")
            self.roles[role] = NotifydProcess(
                [f"--role={role}"], self.env(role), self.directory, role
            ).start()
        for process in self.roles.values():
            process.wait_ready()

    def stop(self) -> None:
        """End everything for sure."""
        for process in self.roles.values():
            process.close()
        self.kafka.stop()
        self.postgres.stop()


def _post(url: str, token: str, body: object) -> None:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status in {200, 202}, answer.status


def _states(access: Access, message_id: str) -> dict[str, str]:
    done = run_notifyd("trace", message_id, "--json", env=access.env("operator"))
    if done.returncode != 0:
        return {}
    return {f"{d['user']} {d['channel']}": d["state"] for d in json.loads(done.stdout)["deliveries"]}


def _wait_for(access: Access, message_id: str, states: Mapping[str, str]) -> None:
    try:
        wait_until(lambda: _states(access, message_id) == states, timeout_s=60, every_s=0.2)
    except AssertionError:
        raise AssertionError(f"{message_id}: {_states(access, message_id)}, not {states}") from None


async def _write_broken(env: Mapping[str, str]) -> None:
    """Write a record that breaks the rules of the envelope, as some application might."""
    settings = load_settings(env)
    producer = AIOKafkaProducer(**kafka_options(settings))
    await producer.start()
    await producer.send_and_wait(Topics.of(settings).messages, b"no envelope")
    await producer.stop()


def try_all(access: Access) -> None:
    """Have every role do each kind of its work."""
    api, ws = access.roles["api"], access.roles["ws"]
    shop = access.run("api", "token", "shop", "--scope", "notify:send").strip()
    alice = access.run("api", "token", "alice").strip()
    push_url = f"{ws.http_url.replace('http', 'ws')}/v1/push"
    options = ["--user", "alice", "--count", "1", "--url", push_url]
    listener = NotifydProcess(["listen", *options], access.env("ws"), access.directory, "listen").start()
    wait_until(lambda: ws.metric("notifyd_ws_connections") == 1, timeout_s=20, what="a client")
    with WebhookReceiver() as receiver:
        url = receiver.script("/hook", 503, 204)
        access.run("operator", "contacts", "set", "alice", "--webhook", url)
        access.run("operator", "contacts", "set", "carol", "--webhook", receiver.script("/gone", 404))
        # One who is there, one who is not; the webhook fails once and waits in a retry topic.
        first, second, third = (str(new_id()) for _ in range(3))
        both = {"title": "Hi", "channels": ["ws", "webhook"]}
        sent = {"UUID": first, "toUserIds": ["alice", "bob"], "content": both}
        _post(f"{api.http_url}/v1/messages", shop, sent)
        assert listener.wait(timeout_s=30) == 0
        want = {"alice ws": "acked", "alice webhook": "sent", "bob ws": "stored", "bob webhook": "skipped"}
        _wait_for(access, first, want)
        _post(f"{api.http_url}/v1/inbox/read", alice, {"ids": [first]})
        # Released by sweep.
        due = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
        later = {"UUID": second, "toUserIds": ["dave"], "content": {"title": "Later", "notBefore": due}}
        _post(f"{api.http_url}/v1/messages", shop, later)
        _wait_for(access, second, {"dave ws": "stored"})
        # Dead by deliver, and tried again by the operator; dead by persist.
        hopeless = {"UUID": third, "toUserIds": ["carol"], "content": {**both, "channels": ["webhook"]}}
        _post(f"{api.http_url}/v1/messages", shop, hopeless)
        _wait_for(access, third, {"carol webhook": "dead"})
        receiver.script("/gone", 204)
        access.run("operator", "dlq", "replay", "--id", third, "--yes")
        _wait_for(access, third, {"carol webhook": "sent"})
    asyncio.run(_write_broken(access.env("operator")))
    wait_until(
        lambda: access.roles["persist"].metric("notifyd_dead_letters_total") == 1, what="a dead letter"
    )
    assert len(access.run("operator", "dlq", "ls", "--json").splitlines()) == 2
    access.run("operator", "sessions", "end", "alice")
    access.run("operator", "retention", "run")


def must_be_refused(access: Access) -> None:
    """Try what no account may."""
    for account, statement in (
        ("ws", "DELETE FROM inbox"),
        ("persist", "DROP TABLE inbox"),
        ("sweep", "CREATE TABLE mine (id int)"),
        ("api", "ALTER TABLE message ADD COLUMN mine int"),
    ):
        with psycopg2.connect(access.urls[account]) as connection, connection.cursor() as cursor:
            try:
                cursor.execute(statement)
            except psycopg2.errors.InsufficientPrivilege:
                continue
        raise AssertionError(f"{account} may {statement}")
    for account in ("deliver", "persist"):
        done = run_notifyd("send", "--to", "alice", "--title", "No", env=access.env(account))
        assert done.returncode != 0, f"{account} may write messages"


def main() -> int:
    """Run it; the logs stay where it failed."""
    directory = Path(tempfile.mkdtemp(prefix="notifyd-access-"))
    access = Access(directory)
    try:
        access.start()
        try_all(access)
        must_be_refused(access)
        for role, process in access.roles.items():
            assert process.sigterm() == 0, role
            for word in ("uthorization", "permission denied", "InsufficientPrivilege"):
                lines = [line for line in process.log.splitlines() if word in line]
                assert not lines, f"{role}: {lines[0]}"
    finally:
        access.stop()
        print(f"access: logs in {directory}")
    print("access: every role did its work with its own rights, and was refused the rest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
