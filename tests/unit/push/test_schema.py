"""The published schema of the push protocol against the code that speaks it."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from notifyd.message.envelope import new_id
from notifyd.push import protocol
from notifyd.push.protocol import ERROR_OF, MAX_IDS, MAX_OBJECTS, STAGE_OF, CloseCode, Hello
from tests.fixtures.protocol import (
    FRAMES,
    SCHEMA,
    SCHEMA_FILE,
    OutOfProtocol,
    check_client,
    check_server,
    take_findings,
)
from tests.fixtures.push import make_message

DEFS: dict[str, Any] = SCHEMA["$defs"]
#: One call of every function that writes a frame of the server.
WRITTEN = {
    "encode_welcome": [("s", "c", 25.0, 3, None), ("s", "c", 0.5, 0, "later"), ("s", "c", 25, 0, "inbox")],
    "encode_message": [(make_message().raw, "3:1842"), (make_message().raw, None)],
    "encode_ok": [("ack", [new_id()]), ("read", [new_id()], ["nonsense"])],
    "encode_state": [([new_id()], "read")],
    "encode_pos": [("c",)],
    "encode_drain": [(0, 15_000)],
    "encode_error": [("bad_frame", "why")],
}


def test_it_is_a_schema():
    jsonschema_rs.meta.validate(SCHEMA)
    for name in FRAMES:
        assert DEFS[name]["description"], name


def test_every_frame_that_the_server_can_write_is_in_it():
    functions = {
        name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if name[:7] == "encode_"
    }
    assert functions == set(WRITTEN)
    for name, calls in WRITTEN.items():
        for arguments in calls:
            frame = json.loads(getattr(protocol, name)(*arguments))
            if name == "encode_message":
                frame["message"].pop("toUserIds")
            check_server(json.dumps(frame))
            check_server(json.dumps([frame, frame]))
    check_server(protocol.encode_error("unauthorised", "", close=4401))


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"dance"}',
        '[{"op":"pos","cursor":"c"},{"op":"dance"}]',
        "[]",
        '{"op":"pos"}',
        '{"op":"pos","cursor":"c","lag":7}',
        '{"op":"state","ids":["a"],"set":"forgotten"}',
        '{"op":"error","code":"tired","detail":""}',
        '{"op":"hello"}',
    ],
)
def test_what_it_does_not_know_fails_a_test_that_sees_it(text):
    with pytest.raises(OutOfProtocol):
        check_server(text)
    assert len(take_findings()) == 1


def test_a_message_shows_no_other_user():
    frame = {"op": "msg", "message": json.loads(make_message(["alice", "bob"]).raw)}
    with pytest.raises(OutOfProtocol):
        check_server(json.dumps(frame))
    take_findings()


def test_hello_has_the_fields_limits_and_defaults_of_the_code():
    told = DEFS["hello"]["properties"]
    ours = msgspec.json.schema(Hello)["$defs"]["Hello"]["properties"]
    assert set(told) == {"op", *ours}
    for name, mine in ours.items():
        theirs = told[name]
        assert theirs["default"] == json.loads(json.dumps(mine["default"])), name
        kind = next((one for one in mine.get("anyOf", ()) if one["type"] != "null"), mine)
        for limit in ("maxLength", "minItems", "maxItems"):
            assert theirs.get(limit) == kind.get(limit), (name, limit)
    items = told["content"]["items"]
    assert (items["minLength"], items["maxLength"]) == (1, 16)
    assert DEFS["place"]["maxLength"] == ours["at"]["items"]["maxLength"]


def test_marks_have_the_ops_and_limits_of_the_code():
    told = DEFS["mark"]["properties"]
    assert set(told["op"]["enum"]) == set(STAGE_OF)
    assert told["ids"]["maxItems"] == MAX_IDS
    assert told["ids"]["items"]["maxLength"] == 64
    assert DEFS["fromClient"]["oneOf"][1]["maxItems"] == MAX_OBJECTS
    # Among what the server confirms is the same, and what it refuses.
    assert set(DEFS["ok"]["properties"]) == {"op", "refused", *STAGE_OF}


def test_every_close_code_is_listed_with_its_error_and_whether_it_is_final():
    *others, final = DEFS["closeCode"]["oneOf"]
    assert final == {"$ref": "#/$defs/finalCloseCode"}
    listed = {one["const"]: one["title"] for one in others + DEFS["finalCloseCode"]["oneOf"]}
    assert listed == {int(code): ERROR_OF.get(code, code.name.lower()) for code in CloseCode}
    assert all(4400 <= one["const"] <= 4499 for one in DEFS["finalCloseCode"]["oneOf"])
    assert not any(4400 <= one["const"] <= 4499 for one in others)
    assert set(DEFS["errorCode"]["enum"]) == set(ERROR_OF.values())


def test_the_page_lists_the_same_codes_and_ops():
    page = (SCHEMA_FILE.parent / "push-protocol.md").read_text()
    table = re.findall(r"^\| (\d{4}) \|([^|]*)\|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    told = {int(code): (error.strip(" `"), final.strip() == "yes") for code, error, final in table}
    assert told == {
        int(code): (ERROR_OF.get(code, ""), 4400 <= code <= 4499)
        for code in CloseCode
        if code is not CloseCode.NORMAL
    }
    for name in FRAMES:
        for op in ops_of(name):
            assert f"`{op}`" in page
    assert f"({SCHEMA_FILE.name})" in page


def test_the_examples_of_the_page_are_frames():
    page = (SCHEMA_FILE.parent / "push-protocol.md").read_text()
    examples = re.findall(r'^(?:data: )?(\{"op": ?".*?\})$', re.sub(r",\n +", ", ", page), re.MULTILINE)
    assert len(examples) >= 10
    for example in examples:
        (check_client if json.loads(example)["op"] in {"hello", *STAGE_OF} else check_server)(
            example.replace('"019a..."', f'"{new_id()}"')
        )


def ops_of(frame: str) -> list[str]:
    """Return the ops that a frame of the schema may have."""
    op = DEFS[frame]["properties"]["op"]
    return op.get("enum") or [op["const"]]
