"""The scripts of k8s/access name topics, groups and accounts that there are, and none that goes without."""

from __future__ import annotations

import os
import re
import subprocess
from urllib.parse import urlsplit

from notifyd.roles.names import ROLES
from notifyd.roles.streaming import group_of
from notifyd.settings import load_settings
from notifyd.stream.topics import Topics
from tests.fixtures.manifests import K8S, containers, environment, pod_templates


def _acls(**env: str) -> list[list[str]]:
    """Return the arguments of each call of `kafka-acls.sh` that the script makes."""
    done = subprocess.run(
        [K8S / "access/kafka-acls.sh"],
        env={"PATH": os.environ["PATH"], "KAFKA_ACLS": "echo", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


def _values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_acls_name_topics_and_groups_that_there_are() -> None:
    settings = load_settings({})
    topics = Topics.of(settings)
    groups = {group_of(settings, role) for role in ROLES}
    met = set()
    for words in _acls():
        if "prefixed" in words and "--topic" in words:
            assert _values(words, "--topic") == [settings.topic_prefix]
        else:
            met |= set(_values(words, "--topic"))
        assert {group.rstrip("-") for group in _values(words, "--group")} <= groups
    assert met == set(topics.all())


def _writers(topic: str) -> set[str]:
    return {
        _values(words, "--allow-principal")[0]
        for words in _acls()
        if topic in words and "Write" in _values(words, "--operation")
    }


def test_only_sweep_and_who_replays_dead_letters_may_resend() -> None:
    resend = Topics.of(load_settings({})).resend
    assert _writers(resend) == {"User:notifyd-sweep", "User:notifyd-api", "User:notifyd-operator"}


def test_who_replays_dead_letters_reads_them_and_writes_to_every_topic_that_records_died_on() -> None:
    topics = Topics.of(load_settings({}))
    died_on = (topics.messages, topics.events, topics.resend, *topics.retry.values())
    for account in ("User:notifyd-api", "User:notifyd-operator"):
        assert all(account in _writers(topic) for topic in died_on)
    api = [words for words in _acls() if "User:notifyd-api" in words and topics.dlq in words]
    assert [_values(words, "--operation") for words in api] == [["Read"]]


def test_a_prefix_and_a_suffix_reach_every_name() -> None:
    for words in _acls(PREFIX="shop.", SUFFIX="-b"):
        assert all(name.startswith("shop") for name in _values(words, "--topic") + _values(words, "--group"))
        assert all(account.endswith("-b") for account in _values(words, "--allow-principal"))


def test_the_accounts_of_the_secrets_are_those_of_the_scripts() -> None:
    in_kafka = {account for words in _acls() for account in _values(words, "--allow-principal")}
    sql = (K8S / "access/postgres.sql").read_text()
    (listed,) = re.findall(r"FOREACH account IN ARRAY ARRAY\[(.*?)\]", sql)
    in_postgres = set(re.findall(r"'(\w+)'", listed))
    used_kafka, used_postgres = set(), set()
    for template in pod_templates("prod").values():
        for container in containers(template):
            settings = load_settings(environment("prod", container))
            used_kafka.add(f"User:{settings.kafka_sasl_username}")
            if settings.database_url is not None:
                used_postgres.add(urlsplit(settings.database_url.get_secret_value()).username)
    assert used_kafka == in_kafka - {"User:notifyd-operator"}
    assert used_postgres == in_postgres
