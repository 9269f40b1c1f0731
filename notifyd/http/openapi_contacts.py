"""The part of `/v1/openapi.json` on contacts."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from notifyd.delivery.contact import MAX_ADDRESSES
from notifyd.http import contacts
from notifyd.http.reads import OPS


class Contact(BaseModel):
    """Where a user is reached, and what they do not want; all parts are optional."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")

    user_id: str | None = Field(None, description="The user of the path, or absent.")
    webhook: list[dict[str, Any]] = Field([], max_length=MAX_ADDRESSES, description="`url` and `secret`.")
    email: list[str] = Field([], max_length=MAX_ADDRESSES)
    webpush: list[dict[str, Any]] = Field([], max_length=MAX_ADDRESSES, description="PushSubscriptions.")
    apprise: list[str] = Field([], max_length=MAX_ADDRESSES)
    mute: list[dict[str, Any]] = Field([], description="`type`, `channel`, `from`, `until`.")


class ContactWritten(BaseModel):
    """Kafka has it."""

    user: str
    ok: bool


MODELS: Final = (Contact, ContactWritten)
_PROBLEMS: Final = {
    "400": "The user id or the query is wrong, or the body broke off.",
    "401": "No token, or one that is wrong or expired.",
    "403": f"The token lacks the scope {OPS}, or the page is of an origin that is not listed.",
    "404": "There is no contact of this user.",
    "408": "The body did not arrive in time.",
    "413": "The body is over 64 KiB.",
    "415": "Another media type.",
    "422": "The contact is wrong: `errors` has a pointer.",
    "429": "Too many contacts are being looked up.",
    "500": "Kafka refuses; a person has to mend it.",
    "503": "Kafka did not answer in time. A write may have been made: repeat it.",
}
_READING: Final = frozenset({"404", "429"})
_BODY: Final = frozenset({"408", "413", "415", "422"})


def contact_paths() -> dict[str, dict[str, Any]]:
    """Return the operations by path and method."""
    user = {"name": "user", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    found: dict[str, Any] = {}
    for method, operation, summary, schema, never in (
        ("get", "readContact", "Where a user is reached; secrets are hidden", "Contact", _BODY),
        ("put", "writeContact", "Write a contact in the place of the one before", "ContactWritten", _READING),
        ("delete", "removeContact", "Remove a contact", "ContactWritten", _BODY | _READING),
    ):
        found[method] = {
            "operationId": operation,
            "summary": f"{summary} ({OPS})",
            "parameters": [user],
            "responses": {
                "200": {"description": "Done.", "content": _content("application/json", schema)},
                **{
                    status: {"description": text, "content": _content("application/problem+json", "Problem")}
                    for status, text in _PROBLEMS.items()
                    if status not in never
                },
            },
        }
    found["put"]["requestBody"] = {"required": True, "content": _content("application/json", "Contact")}
    return {contacts.PATH: found}


def _content(kind: str, schema: str) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
