"""Dead letters go to a real broker and come back as they were, through `notifyd dlq ls`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from notifyd.cli.main import run_command
from notifyd.cli.output import run_async
from notifyd.metrics import Metrics
from notifyd.settings import Settings
from notifyd.stream.dead_letter import DeadLetters
from notifyd.stream.producer import OutRecord, Producer
from notifyd.stream.reading import read_topic
from notifyd.stream.topics import Topics, create_topics, dlq_max_bytes
from tests.fixtures.kafka import environment_of

BODIES = [b"\x00\xff", b'{"UUID":"019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11","from":', b"", "zoë".encode()]


async def fill(settings: Settings) -> None:
    """Write records as anybody would, and set each aside as `persist` would."""
    topics = Topics.of(settings)
    producer = Producer(settings, Metrics(), client_id="test")
    await producer.start()
    letters = DeadLetters(producer, topics, settings, Metrics(), "inc-1")
    await producer.send_all(
        [OutRecord(topics.messages, body, b"key-\xfe", (("own", b"\x01"),), partition=1) for body in BODIES]
    )
    async for record in read_topic(settings, topics.messages):
        await letters.write(
            record,
            reason="empty" if not record.value else "not_json",
            error=f"number {record.offset}",
            attempts=record.offset,
            channel="webhook" if record.offset == 3 else None,
            user="alice" if record.offset == 3 else None,
        )
    await producer.stop(5)


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    run_async(create_topics(settings))
    return lambda *arguments: run_command(["dlq", "ls", *arguments])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_empty_queue_is_no_error(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "the DLQ is empty\n")
    assert command("--json") == 0
    assert capsys.readouterr().out == ""


def test_each_letter_is_a_line_with_the_original_bytes(
    command: Callable[..., int], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run_async(fill(settings))
    assert command("--json", "--raw") == 0
    found = sorted(lines(capsys), key=lambda item: item["offset"])
    assert [base64.b64decode(item["value_base64"]) for item in found] == BODIES
    assert list(found[3]) == [
        "place", "reason", "error", "topic", "partition", "offset", "attempts", "first_at", "id", "user",
        "channel", "value_base64",
    ]  # fmt: skip
    assert {(item["topic"], item["partition"]) for item in found} == {(Topics.of(settings).messages, 1)}
    assert [item["offset"] for item in found] == [0, 1, 2, 3]
    assert [item["id"] for item in found] == [None, "019aab3e-6f0c-7d44-9f6a-0d1f5a2b9c11", None, None]
    assert (found[3]["channel"], found[3]["user"], found[3]["attempts"]) == ("webhook", "alice", 3)


def test_reason_and_limit_choose(
    command: Callable[..., int], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run_async(fill(settings))
    assert command("--json", "--reason", "empty") == 0
    assert [item["offset"] for item in lines(capsys)] == [2]
    assert command("--json", "--limit", "2") == 0
    assert len(lines(capsys)) == 2
    assert command("--reason", "nothing") == 0
    assert "no dead letter in the DLQ is like that" in capsys.readouterr().err


async def test_key_and_headers_survive_and_one_too_large_leaves_its_digest(settings: Settings) -> None:
    await create_topics(settings)
    topics = Topics.of(settings)
    await fill(settings)
    records = [record async for record in read_topic(settings, topics.dlq)]
    assert {record.key for record in records} == {b"key-\xfe"}
    assert all(("own", b"\x01") in record.headers for record in records)

    producer = Producer(settings, Metrics(), client_id="test")
    await producer.start()
    letters = DeadLetters(producer, topics, settings, Metrics(), "inc-1")
    huge = b"x" * (dlq_max_bytes(settings) * 2)
    records[0].value = huge
    await letters.write(records[0], reason="too_large", error="far too large")
    await producer.stop(5)
    found = [record async for record in read_topic(settings, topics.dlq)]
    [cut] = [record for record in found if ("notifyd-reason", b"too_large") in record.headers]
    assert ("notifyd-sha256", hashlib.sha256(huge).hexdigest().encode()) in cut.headers
    assert huge.startswith(cut.value)


async def test_reading_ends_while_others_go_on_writing(settings: Settings) -> None:
    import asyncio

    await create_topics(settings)
    topics = Topics.of(settings)
    producer = Producer(settings, Metrics(), client_id="test")
    await producer.start()
    await producer.send_all([OutRecord(topics.dlq, b"%d" % number) for number in range(200)])
    is_over = False

    async def go_on() -> None:
        while not is_over:
            await producer.send(OutRecord(topics.dlq, b"later"))

    writing = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(30):
            found = [record.value async for record in read_topic(settings, topics.dlq)]
    finally:
        is_over = True
        await writing
        await producer.stop(5)
    assert {b"%d" % number for number in range(200)} <= set(found)
