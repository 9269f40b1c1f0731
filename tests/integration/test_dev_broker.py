"""The embedded broker of `make dev`."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from notifyd.dev.broker import EmbeddedBroker
from notifyd.dev.child import is_alive, own_mark
from notifyd.dev.probe import answers
from notifyd.errors import ConfigError


async def _topics(servers: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


async def test_it_starts_and_ends_again_and_again_and_forgets_everything(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    for _ in range(3):
        servers = broker.start()
        assert "fleeting" not in await _topics(servers)
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic("fleeting", 1, 1)])
        await admin.close()
        assert "fleeting" in await _topics(servers)
        mark = own_mark(broker.pid)
        broker.stop()
        assert not is_alive(mark)
        host, _, port = servers.partition(":")
        assert not answers(host, int(port))


def test_one_left_by_a_killed_owner_is_ended_at_the_next_start(tmp_path: Path) -> None:
    left = EmbeddedBroker(tmp_path)
    left.start()
    mark = own_mark(left.pid)
    second = EmbeddedBroker(tmp_path)
    try:
        second.start()
        assert not is_alive(mark)
    finally:
        second.stop()
        left.stop()


def test_a_port_in_use_is_refused_and_not_shared(tmp_path: Path) -> None:
    first = EmbeddedBroker(tmp_path / "first")
    port = int(first.start().rpartition(":")[2])
    try:
        with pytest.raises(ConfigError, match="in use"):
            EmbeddedBroker(tmp_path / "second", port=port).start()
    finally:
        first.stop()


def test_a_program_without_its_mode_bits_is_copied_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifyd.dev.broker.os.access", lambda path, mode: False)
    broker = EmbeddedBroker(tmp_path)
    try:
        assert broker.start()
        assert (tmp_path / "tansu").is_file()
    finally:
        broker.stop()
