"""The bodies of the HTTP API as pydantic models: what `/v1/openapi.json` is made of.

What is true of a body is judged by `notifyd.message`, for every role alike and several times as fast; a
test holds that these models say the same.
"""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from notifyd.message.content import MAX_CHANNELS, MAX_COLLAPSE_KEY_CHARS

_Channel = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", examples=["webhook"])]
_Channels = Annotated[list[_Channel], Field(min_length=1, max_length=MAX_CHANNELS)]
_Duration = Annotated[float | str, Field(examples=[900, "15m"])]
_CollapseKey = Annotated[str, Field(min_length=1, max_length=MAX_COLLAPSE_KEY_CHARS)]
_UserId = Annotated[str, Field(min_length=1, examples=["alice"])]

_OPEN = ConfigDict(extra="allow", alias_generator=to_camel)


class Fallback(BaseModel):
    """Where a message goes that nobody has seen for a while."""

    model_config = _OPEN

    after: _Duration = Field(description="How long to wait: seconds, or text as `15m`.")
    channels: _Channels


class Content(BaseModel):
    """What the message says. `null` is as good as absent; fields that are not named here are kept."""

    model_config = _OPEN

    version: float | str | None = Field(None, description="Absent: 1.0.", examples=[1.1])
    type: str | None = Field(None, description="What kind of message.", examples=["order.shipped"])
    title: str | None = Field(None, examples=["On its way"])
    body: str | None = None
    url: str | None = None
    data: Any = Field(None, description="For the client; notifyd does not look into it.")
    channels: _Channels | None = Field(None, description='Ways out; absent: `["ws"]`.')
    contacts: dict[str, dict[str, Any]] | None = Field(
        None, description="Addresses by user id. No client, log, trace or page ever shows them."
    )
    ttl: _Duration | None = Field(None, description="Lifetime from its arrival: seconds, or text as `15m`.")
    expires_at: AwareDatetime | None = None
    not_before: AwareDatetime | None = None
    collapse_key: _CollapseKey | None = Field(None, description="A newer message of this key replaces it.")
    critical: bool | None = Field(None, description="Sent also to users who muted it.")
    fallback: Fallback | None = None


class Envelope(BaseModel):
    """A message. What is not required is filled; fields that are not named here are kept."""

    model_config = _OPEN

    sender: str = Field(
        alias="from",
        default_factory=str,
        description="The sending system; left out: the `sub` of the token.",
        examples=["orders"],
    )
    id: uuid.UUID = Field(
        alias="UUID",
        default_factory=uuid.uuid4,
        description="Names the message everywhere; left out: one of version 7 is made.",
    )
    content: Content
    to_user_ids: list[_UserId] = Field(min_length=1, description="Whom it is for.")
    create_by: str = Field(
        default_factory=str, description="Who created it; left out: the `sub` of the token."
    )
    create_date_time: AwareDatetime | date = Field(
        default_factory=lambda: datetime.now(UTC),
        description="When; may be left out where the UUID is of version 7, whose time it then is.",
    )


class Confirmation(BaseModel):
    """Kafka has the message: from here on it reaches a final state."""

    id: uuid.UUID = Field(description="Its UUID.")
    position: str = Field(description="`partition:offset` in the topic of messages.", examples=["3:1842"])


class Batch(BaseModel):
    """Kafka has all messages of the batch, told in its order."""

    messages: list[Confirmation]


class FieldFault(BaseModel):
    """One thing that is wrong with the body."""

    pointer: str = Field(
        description="JSON Pointer (RFC 6901); in a batch it starts with the index of the message, from 0.",
        examples=["/toUserIds/0"],
    )
    detail: str = Field(description="The rule, and what to do.")
    code: str = Field(description="A word that stays the same.", examples=["bad_user_id"])


class NotConfirmed(BaseModel):
    """Why Kafka has not confirmed a message."""

    code: str = Field(examples=["producer_timeout"])
    detail: str


class Unconfirmed(BaseModel):
    """A message that Kafka has not confirmed; it may still arrive."""

    id: uuid.UUID
    error: NotConfirmed


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    title: str
    status: int
    detail: str = Field(description="For people.")
    code: str = Field(default_factory=str, description="For programs: a word that stays the same.")
    errors: list[FieldFault] = Field(default_factory=list, description="Each wrong field.")
    line: int = Field(default_factory=int, description="Of `not_json`: where the text breaks off, from 1.")
    column: int = Field(default_factory=int)
    messages: list[Confirmation | Unconfirmed] = Field(
        default_factory=list,
        description="Where Kafka did not confirm: each message, in the order of the request.",
    )
