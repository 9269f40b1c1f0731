"""The Notifier and `notifyd send` on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import notifyd
from notifyd.errors import NotifydError, PermanentError, TransientError
from notifyd.message.envelope import Limits, decode
from notifyd.message.ids import new_id
from notifyd.producer import Confirmation, InvalidEnvelope, Notifier, Outgoing
from notifyd.settings import Settings
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics, create_topics
from tests.fixtures.kafka import environment_of
from tests.fixtures.waiting import eventually

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def made(settings: Settings) -> Settings:
    await create_topics(settings)
    return settings


@pytest.fixture
async def told() -> list[tuple[Outgoing, NotifydError]]:
    return []


@pytest.fixture
async def notifier(made: Settings, told: list[Any]) -> AsyncIterator[Notifier]:
    async with Notifier(
        made, sender="orders", on_failed=lambda message, error: told.append((message, error))
    ) as found:
        yield found


async def records(settings: Settings) -> list[Any]:
    return [record async for record in read_topic(settings, Topics.of(settings).messages)]


async def test_a_message_is_confirmed_where_the_roles_will_read_it(
    notifier: Notifier, made: Settings, told: list[Any]
) -> None:
    done = await notifier.send(
        to=["alice", "bob"], title="Hi", type="greeting", data={"n": 1}, traceparent=TRACE
    )
    [record] = await records(made)
    assert done == Confirmation(done.id, record.topic, record.partition, record.offset, record.timestamp)
    assert done.position == f"{record.partition}:{record.offset}"
    message = decode(record.value, timestamp_ms=record.timestamp, limits=Limits.of(made))
    assert (message.id, message.sender, message.recipients) == (done.id, "orders", ("alice", "bob"))
    assert message.content.type == "greeting"
    assert record.key == done.id.encode()
    assert dict(record.headers)["traceparent"] == TRACE.encode()
    assert dict(record.headers)["ce_type"] == b"greeting"
    assert told == []


async def test_many_are_confirmed_in_order_and_a_bad_one_harms_no_other(
    notifier: Notifier, made: Settings, told: list[Any]
) -> None:
    items: list[dict[str, Any]] = [
        {"to": "alice", "title": str(number), "key": "one"} for number in range(50)
    ]
    bad = new_id()
    items.insert(20, {"to": [], "id": bad, "title": "to nobody"})
    results = await notifier.send_many(items)
    assert len(results) == 51
    assert isinstance(results[20], InvalidEnvelope)
    good = [result for result in results if isinstance(result, Confirmation)]
    assert [result.offset for result in good] == list(range(50))
    assert len({result.partition for result in good}) == 1
    assert len(await records(made)) == 50
    assert [(message.key, error) for message, error in told] == [(None, results[20])]


async def test_many_tasks_may_use_one_notifier(notifier: Notifier, made: Settings) -> None:
    results = await asyncio.gather(*(notifier.send(to="a", title=str(number)) for number in range(200)))
    assert len({(result.partition, result.offset) for result in results}) == 200
    assert len(await records(made)) == 200


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(
    notifier: Notifier, made: Settings
) -> None:
    with pytest.raises(InvalidEnvelope) as caught:
        await notifier.send(to="a", body="x" * made.message_max_bytes)
    assert caught.value.reason == "too_large"
    assert await records(made) == []


async def test_without_topics_the_error_says_what_to_run(settings: Settings, told: list[Any]) -> None:
    async with Notifier(settings, on_failed=lambda message, error: told.append(message.id)) as notifier:
        wanted = new_id()
        with pytest.raises(PermanentError) as caught:
            await notifier.send(to="a", title="x", id=wanted)
    assert caught.value.reason == "topic_missing"
    assert "notifyd topics create" in str(caught.value)
    assert told == [wanted]


async def test_without_a_broker_opening_ends_with_one_clear_error() -> None:
    with pytest.raises(TransientError) as caught:
        async with notifyd.Notifier(bootstrap_servers="127.0.0.1:1", producer_timeout_s=0.5):
            pass
    assert caught.value.reason == "broker_unavailable"
    assert "127.0.0.1:1" in str(caught.value)


async def test_closing_waits_for_what_is_in_flight(made: Settings) -> None:
    notifier = Notifier(made, sender="orders")
    await notifier.start()
    sending = [asyncio.create_task(notifier.send(to="a", title=str(number))) for number in range(100)]
    await eventually(lambda: notifier._producer.pending > 0, every_s=0)
    await notifier.close()
    results = await asyncio.gather(*sending, return_exceptions=True)
    confirmed = [result for result in results if isinstance(result, Confirmation)]
    refused = [result for result in results if isinstance(result, TransientError)]
    assert len(confirmed) + len(refused) == 100
    assert confirmed
    assert len(await records(made)) >= len(confirmed)


def notifyd_command(settings: Settings, *arguments: str, stdin: bytes = b"") -> Any:
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "notifyd", *arguments],
        input=stdin,
        capture_output=True,
        env={**keep, **environment_of(settings)},
        timeout=60,
        check=False,
    )


def test_the_command_prints_id_and_position(made: Settings, tmp_path: Path) -> None:
    done = notifyd_command(made, "send", "--to", "alice", "--title", "Hi", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    first = json.loads(done.stdout)
    assert list(first) == ["id", "position"]

    wanted = new_id()
    done = notifyd_command(made, "send", "--to", "alice", "--id", wanted, "--key", "k", "--ttl", "15m")
    assert done.stdout.decode().split()[0] == wanted

    envelope = {
        "from": "orders", "UUID": new_id(), "content": {"version": 1.1, "title": "x"}, "toUserIds": ["a"],
        "createBy": "me", "createDateTime": "2026-11-24T00:00:00Z",
    }  # fmt: skip
    pretty = json.dumps(envelope, indent=2).encode()
    file = tmp_path / "envelope.json"
    file.write_bytes(pretty)
    done = notifyd_command(made, "send", str(file))
    assert done.stdout.decode().split()[0] == envelope["UUID"]

    envelope["UUID"] = new_id()
    ndjson = json.dumps(envelope).encode() + b"\n{}\n" + json.dumps(envelope).encode()
    done = notifyd_command(made, "send", "-", "--json", stdin=ndjson)
    assert done.returncode == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [envelope["UUID"]] * 2
    assert done.stderr.startswith(b"notifyd: line 2: ")

    values = [record.value for record in asyncio.run(records(made))]
    assert len(values) == 5
    assert pretty in values


def test_the_command_without_a_broker_fails_at_once_with_one_line(made: Settings) -> None:
    away = made.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    done = notifyd_command(away, "send", "--to", "alice")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"connection refused" in done.stderr
    assert b"NOTIFYD_KAFKA_BOOTSTRAP_SERVERS" in done.stderr


def test_ctrl_c_ends_a_command_that_waits_for_input_without_a_traceback(made: Settings) -> None:
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    line = json.dumps({"from": "x"}).encode() + b"\n"
    with subprocess.Popen(
        [sys.executable, "-m", "notifyd", "send", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**keep, **environment_of(made)},
        # As at a terminal: who starts the tests in the background has Ctrl-C ignored, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"notifyd: line 1: ")  # it is up, and waits for more
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""
