from __future__ import annotations

import datetime as dt
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from notifyd.cli.main import run_command
from notifyd.message.build import build_envelope


def envelope(**changes: Any) -> dict[str, Any]:
    return json.loads(build_envelope(to="alice", sender="orders", created_by="me", title="Hi")) | changes


def write(path: Path, *lines: dict[str, Any] | bytes) -> str:
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return str(path)


def test_a_good_envelope_is_told_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["validate", write(tmp_path / "a.json", envelope())]) == 0
    assert capsys.readouterr() == ("1 envelope, all good\n", "")


def test_an_envelope_over_several_lines_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretty = json.dumps(envelope(), indent=2).encode()
    assert run_command(["validate", write(tmp_path / "a.json", pretty)]) == 0
    assert run_command(["validate", write(tmp_path / "b.json", pretty[:-3])]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 envelope, 1 faulty"


def test_each_fault_has_a_line_with_field_rule_reason_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = envelope(UUID="x", toUserIds=["alice", 7], content={"ttl": -1})
    file = write(tmp_path / "a.ndjson", envelope(), b"", faulty, b"garbage", envelope())
    assert run_command(["validate", file]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(file).split(" ")[:2] for line in lines[:-1]] == [
        [":3:", "UUID:"],
        [":3:", "toUserIds[1]:"],
        [":3:", "content.ttl:"],
        [":4:", "is"],
    ]
    assert lines[1] == (
        f'{file}:3: toUserIds[1]: must be a string [bad_user_id]; write user ids as strings, as "42"'
    )
    assert lines[-1] == "4 envelopes, 2 faulty"


def test_json_tells_the_same_an_object_an_envelope(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, faulty = envelope(), envelope(createDateTime="2099-01-01")
    assert run_command(["validate", "--json", write(tmp_path / "a", good, faulty)]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"line": 1, "id": good["UUID"], "ok": True, "faults": []}
    assert (second["line"], second["ok"]) == (2, False)
    assert [(f["field"], f["reason"]) for f in second["faults"]] == [("createDateTime", "date_out_of_range")]
    assert second["faults"][0]["rule"]
    assert second["faults"][0]["remedy"]


def test_contacts_are_judged_as_the_channels_will(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contacts = {
        "alice": {"webhook": [{"secret": "x"}]},
        "bob": "bob@example.com",
        "zoe": {"email": ["z@e.c"]},
    }
    file = write(tmp_path / "a", envelope(content={"contacts": contacts}))
    assert run_command(["validate", "--json", file]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["field"] for fault in faults] == [
        "content.contacts.bob",
        "content.contacts.alice.webhook[0].url",
    ]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'{"from": 1}'))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run_command(["validate", "-"]) == 1
    assert "stdin:1: from: must be a string [wrong_type]" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\x00", b"[" * 5000, b"[]\n[]"])
def test_anything_may_be_in_the_file(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["validate", write(tmp_path / "a", content)]) == 1
    assert "1 envelope, 1 faulty" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, text in ((tmp_path / "none.json", "there is no file"), (tmp_path, "is a directory")):
        assert run_command(["validate", str(file)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert text in err
        assert err.count("\n") == 1


def test_dates_may_be_judged_as_of_another_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = dt.datetime(2020, 5, 1, tzinfo=dt.UTC)
    old = build_envelope(
        to="a", sender="s", created_by="c", id="7f2c1d9e-3b4a-4c5d-8e6f-a1b2c3d4e5f6", created_at=at
    )
    file = write(tmp_path / "a", old)
    assert run_command(["validate", file]) == 1
    assert run_command(["validate", file, "--at", "2020-05-02T00:00:00Z"]) == 0
    assert run_command(["validate", file, "--at", "then"]) == 2
    assert "--at then is not an RFC 3339 time" in capsys.readouterr().err


def test_limits_are_those_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a", envelope(toUserIds=["a", "b"]))
    assert run_command(["validate", file]) == 0
    monkeypatch.setenv("NOTIFYD_MESSAGE_MAX_RECIPIENTS", "1")
    assert run_command(["validate", file]) == 1
