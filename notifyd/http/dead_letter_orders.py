"""What requests on dead letters say: which are meant, what is to be done with them, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from notifyd.http.reads import Parameters
from notifyd.push.cursor import Cursor, decode_cursor, encode_cursor
from notifyd.stream.replay import Selection

#: Letters that one request names, and that one request by filter does.
MAX_PLACES: Final = 200
MAX_DONE: Final = 10_000
DEFAULT_DONE: Final = 1_000
DEFAULT_RATE: Final = 500.0
MAX_RATE: Final = 5_000.0
#: Parameters of a query that choose.
FILTERS: Final = ("reason", "channel", "user", "sender", "id", "from", "to")

_CAMEL: Final = ConfigDict(extra="forbid", alias_generator=to_camel)
_Text = Annotated[str, Field(min_length=1, max_length=256)]
_Place = Annotated[str, Field(pattern=r"^[0-9]{1,4}:[0-9]{1,18}$", examples=["3:1842"])]


class Chosen(BaseModel):
    """Which dead letters are meant: all of this must be so; without any of it all are."""

    model_config = _CAMEL

    reason: _Text | None = None
    channel: _Text | None = None
    user: _Text | None = None
    sender: _Text | None = None
    id: _Text | None = Field(None, description="Of the message.")
    since: AwareDatetime | None = Field(None, alias="from", description="Died at this time or later.")
    until: AwareDatetime | None = Field(None, alias="to", description="Died before.")

    def selection(self) -> Selection:
        """Return it as it is applied."""
        return Selection(
            reason=self.reason,
            channel=self.channel,
            user=self.user,
            sender=self.sender,
            message_id=self.id,
            since_ms=None if self.since is None else int(self.since.timestamp() * 1000),
            until_ms=None if self.until is None else int(self.until.timestamp() * 1000),
        )


class Discard(BaseModel):
    """Dead letters that nothing is to be done with: some by their places, or what a filter chooses."""

    model_config = _CAMEL

    places: Annotated[list[_Place], Field(min_length=1, max_length=MAX_PLACES)] | None = None
    filter: Chosen | None = Field(None, description="`{}` chooses all.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")
    limit: Annotated[int, Field(ge=1, le=MAX_DONE)] = Field(DEFAULT_DONE, description="At most so many.")
    after: Annotated[str, Field(max_length=65_536)] | None = Field(
        None, description="`next` of the answer before; only with the same filter."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.places is None) == (self.filter is None):
            raise ValueError("give either places or a filter; the filter {} chooses all")
        if self.places is not None and self.model_fields_set & {"after", "limit", "rate"}:
            raise ValueError("after, limit and rate go with a filter; places are done at once")
        return self


class Replay(Discard):
    """Dead letters that are to have another chance: some by their places, or what a filter chooses."""

    rate: Annotated[float, Field(ge=1, le=MAX_RATE)] = Field(
        DEFAULT_RATE, description="So many a second at most."
    )
    again: bool = Field(False, description="Those too that were replayed or discarded before.")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a chain of requests stands: the first offset of each partition, and when (Unix ms) it began.

    What a replay puts back may die again: the requests after the first leave out what died since.
    """

    offsets: Mapping[int, int]
    began_ms: int
    is_first: bool = False

    @classmethod
    def begin(cls) -> Self:
        """Begin one now."""
        return cls({}, int(time.time() * 1000), is_first=True)

    def narrow(self, selection: Selection) -> Selection:
        """Leave out what is not this chain's any more."""
        if self.is_first:
            return selection
        until_ms = self.began_ms if selection.until_ms is None else min(self.began_ms, selection.until_ms)
        return replace(selection, until_ms=until_ms)

    def token(self, incarnation: str, passed: Mapping[int, int]) -> str:
        """Write where the next request goes on: opaque to clients, and of one life of the topic."""
        cursor = Cursor(incarnation, {**self.offsets, **passed})
        return f"{self.began_ms:x}.{encode_cursor(cursor)}"


def read_progress(incarnation: str, text: str) -> Progress | None:
    """Read a token; None for garbage, and for places of another life of the topic."""
    began, _, rest = text.partition(".")
    cursor = decode_cursor(rest)
    if cursor is None or cursor.incarnation != incarnation or len(began) > 12:
        return None
    try:
        return Progress(cursor.offsets, int(began, 16))
    except ValueError:
        return None


def read_filters(given: Parameters) -> Selection:
    """Read which dead letters a query asks for."""
    since, until = given.moment("from"), given.moment("to")
    return Selection(
        reason=given.text("reason"),
        channel=given.text("channel"),
        user=given.text("user"),
        sender=given.text("sender"),
        message_id=given.text("id"),
        since_ms=None if since is None else int(since.timestamp() * 1000),
        until_ms=None if until is None else int(until.timestamp() * 1000),
    )
