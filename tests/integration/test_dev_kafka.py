"""The Apache Kafka of tests and of `notifyd dev --kafka`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from notifyd.dev.child import is_alive, own_mark
from notifyd.dev.kafka import LocalKafka
from tests.fixtures.waiting import wait_until


async def _create(servers: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()


async def _write(servers: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, acks="all")
    await producer.start()
    await producer.send_and_wait(topic, value)
    await producer.stop()


async def _read_all(servers: str, topic: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place]
    found = []
    while await consumer.position(place) < end:
        found += [r.value for rs in (await consumer.getmany(timeout_ms=500)).values() for r in rs]
    await consumer.stop()
    return found


async def test_a_killed_node_comes_back_on_the_same_port_with_its_records(own_kafka: LocalKafka) -> None:
    servers = own_kafka.bootstrap_servers
    await _create(servers, "kept")
    await _write(servers, "kept", b"before")
    own_kafka.kill()
    assert not own_kafka.is_running

    assert own_kafka.restart() == servers
    await _write(servers, "kept", b"after")
    assert await _read_all(servers, "kept") == [b"before", b"after"]


async def test_the_console_producer_writes_a_record_for_each_line(own_kafka: LocalKafka) -> None:
    await _create(own_kafka.bootstrap_servers, "lines")
    own_kafka.console_producer("lines", ["one", "two ö"])
    assert await _read_all(own_kafka.bootstrap_servers, "lines") == [b"one", "two ö".encode()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the state of threads from /proc")
def test_a_paused_node_has_no_thread_left_that_runs(own_kafka: LocalKafka) -> None:
    states = Path(f"/proc/{own_kafka.pid}/task")
    for _ in range(20):
        own_kafka.pause()
        try:
            found = {task.read_text().rpartition(")")[2].split()[0] for task in states.glob("*/stat")}
        finally:
            own_kafka.resume()
        assert found == {"T"}


def test_what_a_killed_owner_left_is_gone_and_its_data_are_in_order(own_kafka: LocalKafka) -> None:
    """The owner is a process of its own here, killed with its node running."""
    own_kafka.stop()
    code = (
        "import sys, time; from pathlib import Path; from notifyd.dev.kafka import LocalKafka\n"
        "node = LocalKafka(Path(sys.argv[1])); node.start(); print(node.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(own_kafka.directory)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    node = own_mark(int(owner.stdout.readline()))
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    if sys.platform == "linux":
        wait_until(lambda: not is_alive(node), what="the node to die with its owner")

    own_kafka.start()
    assert not is_alive(node)
    assert own_kafka.is_running


def test_a_second_owner_replaces_a_node_left_running(own_kafka: LocalKafka, tmp_path: Path) -> None:
    left = own_mark(own_kafka.pid)
    second = LocalKafka(own_kafka.directory)
    try:
        assert second.start() == own_kafka.bootstrap_servers
        assert not is_alive(left)
    finally:
        second.stop()
