"""The part of `/v1/openapi.json` on dead letters."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from notifyd.http import dead_letters
from notifyd.http.dead_letter_orders import Discard, Replay
from notifyd.http.reads import DEFAULT_LIMIT, MAX_LIMIT, OPS
from notifyd.stream.dead_letter_view import COUNTED_BY

_NEXT: Final = "Where to go on, also when little was found; `null`: that was all."


class DeadLetter(BaseModel):
    """A record that could not be delivered, or not even be read."""

    place: str = Field(description="`partition:offset` on the DLQ.", examples=["3:1842"])
    reason: str = Field(examples=["http_503"])
    error: str
    topic: str = Field(description="Where the record came from, with `partition` and `offset`.")
    partition: int
    offset: int
    attempts: int
    first_at: datetime
    died_at: datetime
    id: uuid.UUID | str | None = Field(description="Of the message, where it can be told.")
    sender: str | None
    user: str | None
    channel: str | None


class DeadLetterPage(BaseModel):
    """Dead letters, a page in the order of their deaths."""

    letters: list[DeadLetter]
    next: str | None = Field(description=_NEXT)


class AuditEntry(BaseModel):
    """What was done with a dead letter."""

    at: str
    actor: str = Field(description="The `sub` of a token, or who ran the command.")
    action: Literal["replay", "discard"]


class WholeDeadLetter(DeadLetter):
    """A dead letter with its message."""

    bytes: int = Field(description="Of what was kept of the record.")
    message: Any = Field(description="Without `content.contacts`; a text where it cannot be read.")
    audit: list[AuditEntry] | None = Field(description="`null` while the database cannot be asked.")


class DeadLetterCount(BaseModel):
    """Dead letters that have something in common."""

    name: str | None
    letters: int
    open: int | None = Field(
        description="Those that nothing was done with; `null` while the database cannot be asked."
    )
    first_at: datetime
    last_at: datetime


class DeadLetterStats(BaseModel):
    """How many dead letters there are, the most first; pages are to be added up."""

    by: Literal["reason", "channel", "sender", "user"]
    rows: list[DeadLetterCount] = Field(max_length=dead_letters.MAX_ROWS)
    next: str | None = Field(description=_NEXT)


class RefusedLetters(BaseModel):
    """Dead letters that cannot be replayed, or are not there."""

    detail: str
    letters: int
    places: list[str] = Field(description="The first of them.")


class DeadLettersHandled(BaseModel):
    """How far a replay or discard came; in an error too."""

    model_config = ConfigDict(alias_generator=to_camel)

    action: Literal["replay", "discard"]
    dry_run: bool
    done: int
    before: int = Field(description="Passed over: replayed or discarded before.")
    refused: list[RefusedLetters]
    next: str | None = Field(description="Where to go on, as `after`; `null`: that was all.")


MODELS: Final = (DeadLetterPage, WholeDeadLetter, DeadLetterStats, Replay, Discard, DeadLettersHandled)

_PROBLEMS: Final = {
    "401": "No token, or one that is wrong or expired.",
    "403": f"The token lacks the scope {OPS}, or the page is of an origin that is not listed.",
    "429": "Too many such requests are under way in this process.",
    "500": "Kafka refuses; a person has to mend it.",
    "503": "Kafka or the database did not answer in time. What a replay or discard did is told: repeat it.",
}
_QUERY: Final = {"400": "A parameter is wrong: `errors` names each."}
_BODY: Final = {
    "400": "Not JSON.",
    "408": "The body did not arrive in time.",
    "413": "The body is over 64 KiB.",
    "415": "Another media type.",
    "422": "A field is wrong: `errors` has a pointer to each. Nothing was done.",
}


def dead_letter_paths() -> dict[str, dict[str, Any]]:
    """Return the operations by path and method."""
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    after = _parameter("after", {"type": "string"}, "`next` of the answer before; with the same filters.")
    filters = [
        *(_parameter(name, text) for name in ("reason", "channel", "user", "sender")),
        _parameter("id", text, "Of the message."),
        _parameter("from", text, "A day or an RFC 3339 time; of the death."),
        _parameter("to", text, "The same, not included."),
    ]
    by = _parameter("by", {"type": "string", "enum": list(COUNTED_BY), "default": "reason"})
    place = {"name": "place", "in": "path", "required": True, "schema": {"type": "string"}}
    show = _operation("readDeadLetter", "One dead letter, and what was done with it", "WholeDeadLetter", {})
    show["responses"]["404"] = _problem("There is no dead letter at this place.")
    paths: dict[str, dict[str, Any]] = {
        dead_letters.PATH: {
            "get": {
                **_operation("listDeadLetters", "A page of dead letters", "DeadLetterPage", _QUERY),
                "parameters": [_parameter("limit", limit), after, *filters],
            }
        },
        dead_letters.STATS_PATH: {
            "get": {
                **_operation("countDeadLetters", "Count dead letters", "DeadLetterStats", _QUERY),
                "parameters": [by, after, *filters],
            }
        },
        dead_letters.ONE_PATH: {"get": {**show, "parameters": [place]}},
    }
    for model, summary in ((Replay, "Give dead letters another chance"), (Discard, "Leave dead letters be")):
        name = model.__name__
        paths[f"{dead_letters.PATH}/{name.lower()}"] = {
            "post": {
                **_operation(f"{name.lower()}DeadLetters", summary, "DeadLettersHandled", _BODY),
                "requestBody": {"required": True, "content": _content("application/json", name)},
            }
        }
    return paths


def _operation(operation: str, summary: str, schema: str, problems: dict[str, str]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": f"{summary} ({OPS})",
        "responses": {
            "200": {"description": "Done.", "content": _content("application/json", schema)},
            **{status: _problem(text) for status, text in sorted({**_PROBLEMS, **problems}.items())},
        },
    }


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": _content("application/problem+json", "Problem")}


def _content(kind: str, schema: str) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str, schema: dict[str, Any], text: str = "") -> dict[str, Any]:
    found = {"name": name, "in": "query", "schema": schema}
    return {**found, "description": text} if text else found
