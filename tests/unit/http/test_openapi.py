"""What `/v1/openapi.json` says is valid OpenAPI, and true of the judge of envelopes and of the answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from notifyd.http.intake import Sender, read_messages
from notifyd.http.openapi import describe_api
from notifyd.message.envelope import Limits
from notifyd.message.ids import new_id
from notifyd.push.requests import Refusal
from notifyd.settings import load_settings

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
DOCUMENT = describe_api(load_settings({}))
WHOLE: dict[str, Any] = {
    "from": "orders",
    "UUID": new_id(),
    "content": {"version": 1.1, "type": "order.shipped", "title": "Hi", "channels": ["ws"], "ttl": "15m"},
    "toUserIds": ["alice", "bob"],
    "createBy": "orders-svc",
}


def validator(name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


ENVELOPE = validator("Envelope")


def is_taken(envelope: Any) -> bool:
    try:
        read_messages(
            json.dumps(envelope).encode(),
            "application/json",
            Sender("shop"),
            limits=Limits(),
            max_messages=1,
            now_ms=int(time.time() * 1000),
        )
    except Refusal:
        return False
    return True


def test_it_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    json.dumps(DOCUMENT)


@pytest.mark.parametrize("name", ["envelope-full.json", "envelope-minimal.json"])
def test_published_envelopes_are_valid(name: str) -> None:
    ENVELOPE.validate(json.loads((GOLDEN / name).read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"more": [1]},
        {"UUID": "7d5c2c1e-4b1f-4c36-9a40-2f0f3f6d1d5e", "createDateTime": "2026-11-24"},
        {"content": {}},
        {"content": {"version": "1.1", "ttl": 30, "new": 1, "title": None, "channels": None}},
        {
            "content": {
                "fallback": {"after": "15m", "channels": ["email"]},
                "contacts": {"a": {"email": ["a@b.c"]}},
            }
        },
        {"content": {"data": [1], "collapseKey": "k", "critical": True}},
    ],
    ids=str,
)
def test_what_is_taken_is_valid(change: dict[str, Any]) -> None:
    if "createDateTime" in change:
        change["createDateTime"] = time.strftime("%Y-%m-%d", time.gmtime())
    envelope = WHOLE | change
    assert is_taken(envelope)
    ENVELOPE.validate(envelope)


@pytest.mark.parametrize(
    "change",
    [
        {"UUID": 7},
        {"from": None},
        {"createBy": 1},
        {"createDateTime": 5},
        {"toUserIds": []},
        {"toUserIds": "alice"},
        {"toUserIds": ["alice", 7]},
        {"toUserIds": [""]},
        {"toUserIds": ["a" * 129]},
        {"toUserIds": ["a"] * 1001},
        {"content": "x"},
        {"content": {"title": 1}},
        {"content": {"channels": []}},
        {"content": {"channels": ["Ws"]}},
        {"content": {"contacts": {"a": 1}}},
        {"content": {"collapseKey": ""}},
        {"content": {"critical": "yes"}},
        {"content": {"fallback": {"after": "15m"}}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_what_breaks_the_schema_is_refused(change: dict[str, Any]) -> None:
    envelope = WHOLE | change
    assert not ENVELOPE.is_valid(envelope)
    assert not is_taken(envelope)


def test_what_may_be_left_out_is_not_required() -> None:
    assert sorted(DOCUMENT["components"]["schemas"]["Envelope"]["required"]) == ["content", "toUserIds"]
    assert is_taken({"content": {}, "toUserIds": ["alice"]})


def test_limits_are_those_of_the_settings() -> None:
    document = describe_api(
        load_settings({"NOTIFYD_MESSAGE_MAX_RECIPIENTS": "7", "NOTIFYD_API_MAX_BATCH": "5"})
    )
    assert document["components"]["schemas"]["Envelope"]["properties"]["toUserIds"]["maxItems"] == 7
    content = document["paths"]["/v1/messages"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["oneOf"][1]["maxItems"] == 5
