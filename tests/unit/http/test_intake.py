"""What `POST /v1/messages` makes of a body: messages with their bytes, or pointers to all that is wrong."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyd.http.intake import MAX_ERRORS, Intake, Sender, read_messages
from notifyd.message.envelope import Limits, decode
from notifyd.message.ids import new_id, time_of
from notifyd.push.requests import Refusal

ID = new_id()
NOW_MS = time_of(ID)
V4 = "7d5c2c1e-4b1f-4c36-9a40-2f0f3f6d1d5e"
WHOLE: dict[str, Any] = {
    "from": "orders",
    "UUID": ID,
    "content": {"version": 1.1, "title": "On its way"},
    "toUserIds": ["alice", "bob"],
    "createBy": "orders-svc",
    "createDateTime": dt.datetime.fromtimestamp(NOW_MS // 1000, dt.UTC).isoformat(),
}


def read(body: Any, kind: str = "application/json", *, key: str | None = None, at_most: int = 10) -> Intake:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sender = Sender("shop", key)
    return read_messages(data, kind, sender, limits=Limits(), max_messages=at_most, now_ms=NOW_MS)


def refusal(body: Any, kind: str = "application/json", **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(body, kind, **options)
    return caught.value


def pointers(refused: Refusal) -> list[str]:
    return [error["pointer"] for error in refused.errors]


def without(*names: str, **others: Any) -> dict[str, Any]:
    return {name: value for name, value in WHOLE.items() if name not in names} | others


# Bytes


def test_a_whole_envelope_keeps_its_bytes() -> None:
    body = b'\n {"x" : 1.50,' + json.dumps(WHOLE, indent=3).encode()[1:] + b"\n"
    (message,) = read(body).messages
    assert message.raw == body.strip()
    (first, second) = read(b"[ " + body + b" ,\n" + body + b"]").messages
    assert first.raw == second.raw == body.strip()


def test_lines_keep_their_bytes_and_empty_ones_do_not_count() -> None:
    line = json.dumps(WHOLE).encode()
    other = json.dumps(without(UUID=V4)).encode()
    intake = read(b"\r\n" + line + b"\r\n\n  " + other + b"\n\n", "application/x-ndjson")
    assert [message.raw for message in intake.messages] == [line, other]
    assert intake.is_batch


def test_an_array_of_one_is_a_batch_and_one_envelope_is_none() -> None:
    assert read([WHOLE]).is_batch
    assert not read(WHOLE).is_batch


# What may be left out


def test_what_is_left_out_is_filled_and_the_rest_stays_as_it_is() -> None:
    (message,) = read(b'{"toUserIds": ["bob"], "content": {"a" : 1.0}, "more": [ 1 ]}').messages
    fields = json.loads(message.raw)
    assert fields["from"] == fields["createBy"] == "shop"
    assert b'{"a" : 1.0}' in message.raw
    assert fields["more"] == [1]
    assert message.is_time_ordered
    assert message.created_at_ms == int(message.id.replace("-", "")[:12], 16)


@pytest.mark.parametrize("left_out", [("UUID",), ("UUID", "createDateTime"), ("createDateTime", "from")])
def test_a_request_that_is_repeated_with_its_uuid_has_the_same_bytes(left_out: tuple[str, ...]) -> None:
    body = without(*left_out)
    (first,) = read(body).messages if "UUID" not in left_out else read(body, key=ID).messages
    (again,) = read(body, key=first.id).messages
    assert again.raw == first.raw
    assert again.digest == first.digest


def test_an_id_made_here_serves_as_the_key_of_a_repetition() -> None:
    body = without("UUID", "createDateTime")
    (first,) = read(body).messages
    (again,) = read(body, key=first.id).messages
    assert again.raw == first.raw


def test_a_uuid_without_a_time_needs_a_time_of_creation() -> None:
    refused = refusal(without("createDateTime", UUID=V4))
    assert refused.status == 422
    assert pointers(refused) == ["/createDateTime"]
    assert read(without(UUID=V4)).messages[0].id == V4
    assert pointers(refusal(without("createDateTime", "UUID"), key=V4)) == ["/createDateTime"]


def test_the_key_is_the_uuid_and_may_not_contradict_it() -> None:
    assert read(without("UUID"), key=ID).messages[0].id == ID
    assert read({**WHOLE, "UUID": ID.upper()}, key=ID).messages[0].id == ID
    refused = refusal(WHOLE, key=V4)
    assert (refused.status, pointers(refused)) == (422, ["/UUID"])
    assert refusal([WHOLE], key=ID).status == 400, "a key names one message"


def test_a_misspelt_name_is_told_and_not_filled_in() -> None:
    refused = refusal(without("UUID", uuid=ID))
    assert pointers(refused) == ["/UUID"]
    assert 'rename "uuid" to "UUID"' in refused.errors[0]["detail"]
    assert pointers(refusal(without("createBy", createdBy="x"))) == ["/createBy"]


# Faults


def test_every_fault_has_a_pointer() -> None:
    contacts = {"a.b": {"webhook": [{"url": ""}]}}
    refused = refusal(
        {
            "UUID": "x",
            "toUserIds": ["bob", 3, ""],
            "content": {"title": 1, "ttl": -1, "channels": ["ws", "W"], "contacts": contacts},
        }
    )
    assert refused.status == 422
    assert pointers(refused) == [
        "/UUID",
        "/toUserIds/1",
        "/toUserIds/2",
        "/content/title",
        "/content/ttl",
        "/content/channels/1",
        "/content/contacts/a.b/webhook/0/url",
    ]
    assert all(error["detail"] and error["code"] for error in refused.errors)


@pytest.mark.parametrize("name", ["content", "toUserIds"])
def test_what_cannot_be_filled_is_missing(name: str) -> None:
    refused = refusal(without(name))
    assert (refused.status, pointers(refused)) == (422, [f"/{name}"])


def test_a_batch_is_refused_whole_with_the_place_of_each_fault() -> None:
    refused = refusal([WHOLE, without("content"), 3, without(UUID=V4, toUserIds=[])])
    assert pointers(refused) == ["/1/content", "/2", "/3/toUserIds"]
    lines = b"\n".join(json.dumps(one).encode() for one in (WHOLE, without("content")))
    assert pointers(refusal(lines, "application/x-ndjson")) == ["/1/content"]


def test_two_messages_of_one_id_in_a_batch_are_a_conflict_unless_they_are_the_same() -> None:
    refused = refusal([WHOLE, WHOLE | {"from": "x"}])
    assert (pointers(refused), refused.errors[0]["code"]) == (["/1/UUID"], "id_conflict")
    assert len(read([WHOLE, WHOLE]).messages) == 2


def test_no_more_faults_are_told_than_anybody_reads() -> None:
    refused = refusal([{}] * 1000, at_most=1000)
    assert len(refused.errors) == MAX_ERRORS
    assert f"first {MAX_ERRORS}" in refused.detail


def test_a_message_over_the_limit_is_too_large() -> None:
    assert refusal(without(content={"body": "x" * 262_144})).status == 413
    refused = refusal([WHOLE, without(content={"body": "x" * 262_144})])
    assert (refused.status, pointers(refused)) == (413, ["/1"])


def test_a_batch_over_the_limit_is_too_large_in_either_form() -> None:
    assert refusal([WHOLE] * 11).status == 413
    assert refusal(json.dumps(WHOLE).encode() + b"\n" + b"{}\n" * 10, "application/x-ndjson").status == 413
    assert refusal(b"[" + b",".join([b"1"] * 100_000) + b"]").status == 413


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"toUserIds": ["bob"],\n "content": {,}}', 2, 14),
        (b'{"toUserIds": ["bob"],\n "cont', 2, 7),
        ('{"toUserIds": ["é",\n "ééé" x'.encode(), 2, 8),
        (b'{"toUserIds":\n["\xff"]}', 2, 3),
        (b"\n\n  nope", 3, 4),
        (b'{"a": 1} {"b": 2}', 1, 10),
    ],
)
def test_what_is_no_json_is_shown_by_line_and_column(body: bytes, line: int, column: int) -> None:
    refused = refusal(body)
    assert (refused.status, refused.code) == (400, "not_json")
    assert refused.extra == {"line": line, "column": column}
    assert f"line {line}, column {column}" in refused.detail


def test_a_broken_line_is_shown_by_its_own_number() -> None:
    line = json.dumps(WHOLE).encode()
    refused = refusal(line + b"\n\n  " + line[:-1], "application/x-ndjson")
    assert refused.extra == {"line": 3, "column": len(line) + 2}


@pytest.mark.parametrize("body", [b"", b" \n", b"[]", b" [ ] "])
def test_nothing_is_not_sent(body: bytes) -> None:
    assert refusal(body).status == 400
    assert refusal(b"\n", "application/x-ndjson").status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        json.dumps(without()).encode().replace(b'"On its way"', b"[" * 70 + b"]" * 70),
        json.dumps(without()).encode().replace(b"On its way", b"\\ud800"),
        b"\xef\xbb\xbf" + json.dumps(WHOLE).encode(),
    ],
    ids=["deep", "deep within", "half of a pair", "byte order mark"],
)
def test_text_that_some_reader_could_not_take_is_refused(body: bytes) -> None:
    assert refusal(body).status == 400


def test_nul_is_shown_where_it_is() -> None:
    refused = refusal(without(content={"body": "a\0"}))
    assert (refused.status, pointers(refused)) == (422, ["/content/body"])


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0\\un\n é', max_size=40).map(str.encode))
def test_any_bytes_are_messages_or_a_refusal(body: bytes) -> None:
    for kind in ("application/json", "application/x-ndjson"):
        try:
            intake = read(body, kind)
        except Refusal as refused:
            assert 400 <= refused.status < 500
            json.dumps([refused.detail, *refused.errors])
        else:
            for message in intake.messages:
                decode(message.raw, timestamp_ms=NOW_MS, limits=Limits())
