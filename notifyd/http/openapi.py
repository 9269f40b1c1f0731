"""`GET /v1/openapi.json`: the HTTP API described for machines (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from pydantic.json_schema import models_json_schema

from notifyd.http import messages, openapi_contacts, openapi_dead_letters
from notifyd.http.intake import JSON, NDJSON
from notifyd.http.models import Batch, Confirmation, Envelope, Problem
from notifyd.http.openapi_reads import MODELS, read_paths
from notifyd.settings import Settings
from notifyd.version import VERSION

PATH: Final = "/v1/openapi.json"

#: What a request may be answered with beside 202, and when.
_PROBLEMS: Final[Mapping[str, str]] = {
    "400": "Not JSON (with line and column), empty, or a broken Idempotency-Key.",
    "401": "No token, or one that is wrong or expired.",
    "403": "The token lacks the scope notify:send, or the page is of an origin that is not listed.",
    "408": "The body did not arrive in time.",
    "413": "The body, the batch or a message is over its limit.",
    "415": "Another media type, or a compressed body.",
    "422": "A field is wrong: `errors` has a pointer to each. Nothing was sent.",
    "429": "This process has as many requests as it takes. Nothing was sent.",
    "500": "Kafka refuses the message; a person has to mend it.",
    "503": "Not confirmed, and may still arrive: repeat with the UUIDs that `messages` names. "
    "Or `not_ready` (without `messages`): nothing was sent.",
}
_RETRIED: Final = frozenset({"429", "503"})


def add_openapi_route(app: web.Application, settings: Settings) -> None:
    """Serve the document; who reads it needs no token."""
    body = msgspec.json.encode(describe_api(settings))

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=JSON, headers={"Cache-Control": "no-cache"})

    app.router.add_get(PATH, show)


def describe_api(settings: Settings) -> dict[str, Any]:
    """Return the document, with the limits of these settings."""
    schemas, reads = _schemas(settings), read_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "notifyd",
            "version": VERSION,
            "description": "Send notifications to users, and read what was sent.",
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        # Relative to this document, wherever it is served.
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {
            **reads,
            **openapi_contacts.contact_paths(),
            **openapi_dead_letters.dead_letter_paths(),
            messages.PATH: {**reads[messages.PATH], "post": _send(settings)},
            PATH: {"get": _show()},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": f"With the scope {messages.SCOPE}.",
                }
            },
        },
    }


def _schemas(settings: Settings) -> dict[str, Any]:
    models = [
        (model, "validation")
        for model in (
            *(Envelope, Confirmation, Batch, Problem),
            *(*MODELS, *openapi_contacts.MODELS, *openapi_dead_letters.MODELS),
        )
    ]
    _, document = models_json_schema(
        models,  # type: ignore[arg-type]  # a list of pairs is not one of pairs with a literal
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = document["$defs"]
    recipients = schemas["Envelope"]["properties"]["toUserIds"]
    recipients["maxItems"] = settings.message_max_recipients
    recipients["items"]["maxLength"] = settings.message_max_user_id_chars
    return schemas


def _send(settings: Settings) -> dict[str, Any]:
    envelope = {"$ref": "#/components/schemas/Envelope"}
    batch = {"type": "array", "items": envelope, "minItems": 1, "maxItems": settings.api_max_batch}
    return {
        "operationId": "sendMessages",
        "summary": "Send one message or a batch",
        "description": "Answered once Kafka has confirmed all of it. "
        "Nothing is sent unless all of it is sound.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The UUID of the one message of this request, also in double quotes.",
                "schema": {"type": "string"},
            },
            {
                "name": "traceparent",
                "in": "header",
                "description": "Trace context (W3C), passed on with the message.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "description": f"At most {settings.api_max_body_bytes} bytes, "
            f"each message at most {settings.message_max_bytes}.",
            "content": {
                JSON: {"schema": {"oneOf": [envelope, batch]}},
                # One envelope a line: OpenAPI 3.1 has no word for a sequence.
                NDJSON[0]: {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "202": {
                "description": "Kafka has it. A batch is answered by `messages`.",
                "content": {
                    JSON: {
                        "schema": {
                            "oneOf": [
                                {"$ref": "#/components/schemas/Confirmation"},
                                {"$ref": "#/components/schemas/Batch"},
                            ]
                        }
                    }
                },
            },
            **{status: _problem(status, text) for status, text in _PROBLEMS.items()},
        },
    }


def _problem(status: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _RETRIED:
        found["headers"] = {
            "Retry-After": {"description": "When to come again, in seconds.", "schema": {"type": "integer"}}
        }
    return found


def _show() -> dict[str, Any]:
    return {
        "operationId": "describeApi",
        "summary": "This document",
        "security": [],
        "responses": {
            "200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}}
        },
    }
