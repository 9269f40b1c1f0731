"""How `notifyd send` reads what it is given, and what `--wait` says."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from notifyd.cli.main import run_command
from notifyd.cli.send import _contacts, _read, _split, _ttl
from notifyd.cli.waiting import describe_hang, state_of


def split(data: bytes) -> list[tuple[str, bytes]]:
    return [item for chunk in _split(io.BytesIO(data)) for item in chunk]


def test_lines_are_messages_and_blank_ones_are_not() -> None:
    assert split(b'{"a":1}\n\n{"b":2}\r\n{"c":3}') == [
        ("line 1", b'{"a":1}'),
        ("line 3", b'{"b":2}'),
        ("line 4", b'{"c":3}'),
    ]


def test_one_document_over_several_lines_is_one_message() -> None:
    assert split(b'\n{\n "a": 1\n}\n') == [("", b'{\n "a": 1\n}\n')]


def test_a_broken_line_among_good_ones_keeps_its_number() -> None:
    assert split(b'{"a":1}\n{"b":\n{"c":3}\n')[1] == ("line 2", b'{"b":')


def test_lines_longer_than_a_read_are_put_together_again() -> None:
    long = b'{"a":"' + b"x" * 3_000_000 + b'"}'
    assert split(b"{}\n" + long + b"\n{}\n") == [("line 1", b"{}"), ("line 2", long), ("line 3", b"{}")]


def test_what_a_pipe_holds_is_handed_on_before_its_end() -> None:
    reading, writing = os.pipe()
    seen = threading.Event()
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as file:
            for chunk in _split(file):
                got.extend(raw for _, raw in chunk)
                seen.set()

    thread = threading.Thread(target=read)
    thread.start()
    os.write(writing, b'{"a":1}\n')
    assert seen.wait(10), "the first line waited for the end of the input"
    os.close(writing)
    thread.join(10)
    assert got == [b'{"a":1}']


def test_an_empty_input_and_a_missing_file_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"\n\n")
    with pytest.raises(Exception, match="input is empty"):
        list(_read(str(empty)))
    with pytest.raises(Exception, match="No such file"):
        list(_read(str(tmp_path / "nothing")))


def test_a_webhook_is_a_contact_of_each_addressee() -> None:
    assert _contacts(["a", "b"], "https://x/y", "whsec_1") == {
        user: {"userId": user, "webhook": [{"url": "https://x/y", "secret": "whsec_1"}]} for user in "ab"
    }
    assert _contacts(["a"], None, None) is None


@pytest.mark.parametrize(("text", "value"), [("30", 30.0), ("1.5", 1.5), ("15m", "15m"), (None, None)])
def test_a_ttl_is_seconds_or_a_duration(text: str | None, value: Any) -> None:
    assert _ttl(text) == value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "a", "--data", "{"], "--data is no JSON"),
        (["file", "--to", "a"], "does not go with --to"),
        (["file", "--title", "a"], "does not go with --to"),
        (["--to", "a", "--webhook-secret", "s"], "--webhook-secret signs a call"),
        (["--to", "a", "--wait"], "NOTIFYD_DATABASE_URL"),
    ],
)
def test_options_that_cannot_work_are_told_before_anything_is_sent(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["send", *arguments]) == 2
    assert said in capsys.readouterr().err


def trace(*deliveries: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "id": "m1",
        "state": "pending",
        "deliveries": [
            {"user": user, "channel": channel, "state": state} for user, channel, state in deliveries
        ],
    }


def test_a_message_that_hangs_says_where_and_how_to_look_further() -> None:
    text = describe_hang(trace(("alice", "ws", "pending"), ("alice", "webhook", "sent")), 30)
    assert "not final after 30 s: ws to alice is pending" in text
    assert "webhook" not in text
    assert "notifyd listen --user" in text
    assert "`notifyd trace m1`" in text


def test_many_that_hang_are_counted() -> None:
    text = describe_hang(trace(*((f"u{number}", "webhook", "retry_wait") for number in range(9))), 30)
    assert "and 6 more" in text
    assert "listen" not in text


def test_a_message_that_was_not_stored_points_at_persist_and_the_dlq() -> None:
    text = describe_hang(None, 30)
    assert "persist" in text
    assert "notifyd dlq ls" in text
    assert state_of(None) == "accepted"
