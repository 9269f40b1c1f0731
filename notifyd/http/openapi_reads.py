"""The reading part of `/v1/openapi.json`: inbox, life of a message, search."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from notifyd.http import inbox, lookup
from notifyd.http.inbox import Marks
from notifyd.http.reads import DEFAULT_LIMIT, MAX_LIMIT, OPS
from notifyd.store.search import STATES

_CAMEL = ConfigDict(alias_generator=to_camel)
_TOKEN: Final = "Opaque; `null` at the end."


class Unreadable(BaseModel):
    """Why a message cannot be shown."""

    code: str = Field(examples=["content_key_missing"])
    detail: str


class InboxMessage(BaseModel):
    """A message in the inbox of a user."""

    model_config = _CAMEL

    message: dict[str, Any] = Field(description="The envelope, without `toUserIds` and `content.contacts`.")
    arrived_at: datetime
    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None
    error: Unreadable | None = Field(
        None, description="Where it cannot be opened: of the `message` there is no more than its `UUID` then."
    )


class InboxPage(BaseModel):
    """Messages of an inbox, newest first."""

    model_config = _CAMEL

    messages: list[InboxMessage]
    next: str | None = Field(description=_TOKEN)
    up_to: str | None = Field(description="Marks this page and all below it; `null` where it is empty.")


class Unread(BaseModel):
    """How much of an inbox is unread."""

    unread: int


class Marked(BaseModel):
    """What a mark changed."""

    changed: list[uuid.UUID] = Field(description="What was not so before.")
    unread: int
    next: str | None = Field(description="Where to go on, after `upTo` with very much below it.")


class Life(BaseModel):
    """The life of a message, as `notifyd trace --json` prints it."""

    id: uuid.UUID
    state: str
    envelope: dict[str, Any] | None
    position: str | None
    deliveries: list[dict[str, Any]]
    events: list[dict[str, Any]]
    expires_at: datetime | None
    unknown: list[str] = Field(description="Stages of the message itself that nothing is stored of yet.")


class FoundDelivery(BaseModel):
    """A delivery that is stuck, or that was slow."""

    id: uuid.UUID
    user: str
    channel: str
    state: str
    attempts: int
    reason: str | None
    detail: str | None
    since: datetime = Field(description="Since when nobody has spoken of it, or when it was due.")
    reached_at: datetime | None = Field(description="Its first success, or its death.")
    took_s: float | None = Field(description="Seconds in between.")
    waits_for: str | None
    waits_until: datetime | None


class FoundDeliveries(BaseModel):
    """Deliveries, the worst first."""

    deliveries: list[FoundDelivery]
    partial: bool = Field(description="There was more than is looked at.")


class FoundMessage(BaseModel):
    """A message that a search found."""

    model_config = _CAMEL

    id: uuid.UUID
    state: str
    sender: str = Field(alias="from")
    create_by: str
    type: str | None
    accepted_at: datetime
    not_before: datetime | None
    expires_at: datetime | None
    position: str


class FoundMessages(BaseModel):
    """Messages that a search found, the latest days first."""

    messages: list[FoundMessage]
    next: str | None = Field(description="Where to go on, also when little was found; `null`: that was all.")


#: What the document needs beside the models of what is sent.
MODELS: Final = (InboxPage, Unread, Marks, Marked, Life, FoundMessages, FoundDeliveries)

_PROBLEMS: Final = {
    "401": "No token, or one that is wrong or expired.",
    "403": "The token lacks the scope, or the page is of an origin that is not listed.",
    "429": "Too many requests wait for the database.",
    "503": "The database cannot be read for now. A mark may have been made: repeat it.",
}
_BAD_QUERY: Final = {"400": "A parameter is wrong: `errors` names each."}
_BAD_BODY: Final = {
    "400": "Not JSON.",
    "408": "The body did not arrive in time.",
    "413": "The body is over 64 KiB.",
    "415": "Another media type.",
    "422": "A field is wrong: `errors` has a pointer to each.",
}


def read_paths() -> dict[str, dict[str, Any]]:
    """Return the operations by path and method."""
    token = {"type": "string"}
    paging = [
        _parameter(
            "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        ),
        _parameter("after", token, "`next` of the page before."),
    ]
    flag = {"type": "boolean", "default": False}
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    one = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}]
    filters = [
        _parameter("unread", flag),
        _parameter("type", text, "`content.type`."),
        _parameter("archived", flag, "The archive instead."),
    ]
    search = [
        *(_parameter(name, text) for name in ("user", "sender", "type")),
        _parameter("state", {"type": "string", "enum": list(STATES)}),
        _parameter("from", text, "A day or an RFC 3339 time; of the arrival."),
        _parameter("to", text, "The same, not included."),
    ]
    paths = {
        inbox.PATH: {"get": _get("readInbox", "A page of the inbox", "InboxPage", [*paging, *filters])},
        f"{inbox.PATH}/unread": {"get": _get("countUnread", "Count what is unread", "Unread", [])},
        lookup.PATH: {"get": _get("searchMessages", f"Search ({OPS})", "FoundMessages", [*paging, *search])},
        lookup.ONE_PATH: {
            "get": _get("readMessage", f"The life of a message, or the own part ({OPS}: all)", "Life", one)
        },
    }
    limit = paging[0]
    span = {"type": "string", "examples": ["90s", "15m", "1h30m"]}
    for path, operation, summary, parameter in (
        (lookup.STUCK_PATH, "findStuck", "Open deliveries of which nobody has spoken for long",
         _parameter("olderThan", {**span, "default": lookup.SILENT}, "Silent for so long at least.")),
        (lookup.SLOWEST_PATH, "findSlowest", "Deliveries that took longest to succeed or die",
         _parameter("since", {**span, "default": lookup.SINCE}, "Accepted so long ago at most.")),
    ):  # fmt: skip
        paths[path] = {"get": _get(operation, f"{summary} ({OPS})", "FoundDeliveries", [limit, parameter])}
    paths[lookup.ONE_PATH]["get"]["responses"]["404"] = _problem("Nobody has seen it, or it is not for you.")
    for change in inbox.CHANGES:
        paths[f"{inbox.PATH}/{change}"] = {"post": _mark(change)}
    return paths


def _get(operation: str, summary: str, schema: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": _responses(schema, _BAD_QUERY),
    }


def _mark(change: str) -> dict[str, Any]:
    return {
        "operationId": f"mark{change.capitalize()}",
        "summary": f"Mark messages as {change}",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Marks"}}},
        },
        "responses": _responses("Marked", _BAD_BODY),
    }


def _responses(schema: str, problems: dict[str, str]) -> dict[str, Any]:
    return {
        "200": {
            "description": "What was asked for.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        },
        **{status: _problem(text) for status, text in sorted({**_PROBLEMS, **problems}.items())},
    }


def _problem(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _parameter(name: str, schema: dict[str, Any], text: str = "") -> dict[str, Any]:
    found = {"name": name, "in": "query", "schema": schema}
    return {**found, "description": text} if text else found
