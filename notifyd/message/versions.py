"""The registry of content versions: a schema each, and casts between neighbours.

A minor version only adds optional fields, so that who reads 1.1 reads 1.0 too. A major version
that is not in here is passed on as it is. A published version never changes: the golden files
under `tests/golden/` hold each to its bytes.

To publish 1.2: subclass the newest schema with the fields it adds, append it to `_PUBLISHED`,
add its golden files. Where leaving fields out is not the whole of the way down, give it a `down`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from notifyd.errors import InvalidMessage

Fields = dict[str, msgspec.Raw]
Cast = Callable[[Fields], Fields]


class FallbackFields(msgspec.Struct, frozen=True):
    """`content.fallback`: channels to use where nobody has seen the message `after` that time."""

    after: str | int | float
    channels: list[str]


class Content10(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Content 1.0, as on the wire. `null` is as good as absent."""

    version: str | int | float | None = None
    type: str | None = None
    title: str | None = None
    body: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    channels: list[str] | None = None
    contacts: dict[str, msgspec.Raw] | None = None
    ttl: str | int | float | None = None
    expires_at: str | None = None
    not_before: str | None = None


class Content11(Content10, frozen=True, kw_only=True, rename="camel"):
    """Content 1.1: 1.0 and where to go, what it replaces, how urgent it is, what if unseen."""

    url: str | None = None
    collapse_key: str | None = None
    critical: bool | None = None
    fallback: FallbackFields | None = None


def names_of(schema: type[msgspec.Struct]) -> frozenset[str]:
    """Name the fields of a schema as they are on the wire."""
    return frozenset(schema.__struct_encode_fields__)


@dataclass(frozen=True, slots=True)
class ContentVersion:
    """One published version: its number, its schema, its casts to the next and the previous one."""

    major: int
    minor: int
    schema: type[Content10]
    up: Cast
    down: Cast

    @property
    def name(self) -> str:
        """The number as text: `1.1`."""
        return f"{self.major}.{self.minor}"

    def as_json(self, *, is_text: bool = False) -> msgspec.Raw:
        """The value of `version`: a number where one can tell it, or text."""
        text = f'"{self.name}"' if is_text or self.minor > 9 else self.name
        return msgspec.Raw(text.encode())


def _same(fields: Fields) -> Fields:
    # A minor version only adds optional fields: the older content is valid as it is.
    return fields


def _without(names: frozenset[str]) -> Cast:
    def cast_down(fields: Fields) -> Fields:
        return {name: raw for name, raw in fields.items() if name not in names}

    return cast_down


_PUBLISHED = (
    ContentVersion(1, 0, Content10, up=_same, down=_same),
    ContentVersion(1, 1, Content11, up=_same, down=_without(names_of(Content11) - names_of(Content10))),
)

#: Every published version by its number, in rising order.
VERSIONS: Final[Mapping[tuple[int, int], ContentVersion]] = {(v.major, v.minor): v for v in _PUBLISHED}
#: The one that our producers write.
NEWEST: Final = _PUBLISHED[-1]

_TEXT = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?", re.ASCII)
_fields_decoder = msgspec.json.Decoder(Fields)
_encoder = msgspec.json.Encoder()


# Cached, as there are few: content of every message goes through here.
@lru_cache(maxsize=256)
def parse_version(value: float | str | None) -> tuple[int, int] | None:
    """Read `1`, `1.1`, `"1"` or `"1.1"` as (major, minor); absent is 1.0; None where malformed.

    A number cannot tell 1.1 from 1.10: from the tenth minor version on, it takes a string.
    """
    if value is None:
        return 1, 0
    found = _TEXT.fullmatch(str(value))
    return (int(found[1]), int(found[2] or 0)) if found else None


def is_known_major(major: int) -> bool:
    """Say whether any version of this major one is in the registry."""
    return any(version.major == major for version in _PUBLISHED)


@lru_cache(maxsize=1024)
def choose_version(version: str, reads: tuple[str, ...]) -> str | None:
    """Choose what to cast content of `version` to for a client that reads `reads`.

    None: pass it on as it is. `"1"` reads every 1.x, `"1.1"` asks for exactly that. Of several
    the nearest below wins, then the nearest above. What this server does not know, of the
    content or of the client, is passed on as it is rather than kept back.
    """
    own = parse_version(version)
    if own is None or not is_known_major(own[0]):
        return None
    wanted = []
    for text in reads:
        number = parse_version(text)
        if number is None or number[0] != own[0]:
            continue
        if number == own or "." not in text:
            return None
        wanted.append(number)
    if not wanted:
        return None
    below = [number for number in wanted if number < own]
    number = max(below) if below else min(wanted)
    # Unknown minor versions of a client read all that came before them.
    known = [v for v in _PUBLISHED if (v.major, v.minor) <= number and v.major == number[0]]
    target = known[-1]
    return None if (target.major, target.minor) == own else target.name


def cast(content_raw: bytes, reads: Sequence[str]) -> bytes:
    """Cast content for a client that reads the versions `reads`; the same bytes where none is needed.

    Fields that no schema knows are kept, as is every value, byte for byte. Raises
    `InvalidMessage` where the content is no object or its version malformed.
    """
    try:
        fields = _fields_decoder.decode(content_raw)
        version = msgspec.json.decode(fields.get("version", b"null"), type=str | int | float | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None
    own = parse_version(version)
    if own is None:
        raise _malformed()
    name = choose_version(f"{own[0]}.{own[1]}", tuple(reads))
    if name is None:
        return content_raw
    target = parse_version(name) or own
    cast_fields = _walk(fields, own, target)
    cast_fields["version"] = VERSIONS[target].as_json(is_text=isinstance(version, str))
    return _encoder.encode(cast_fields)


def _walk(fields: Fields, own: tuple[int, int], target: tuple[int, int]) -> Fields:
    """Go from neighbour to neighbour until the content is of the version `target`."""
    for step in _PUBLISHED:
        if own <= (step.major, step.minor) < target:
            fields = step.up(fields)
    for step in reversed(_PUBLISHED):
        if target < (step.major, step.minor) <= own:
            fields = step.down(fields)
    return fields


def _malformed() -> InvalidMessage:
    return InvalidMessage(
        "content.version",
        "is not a version",
        reason="bad_content",
        remedy='write 1.1 or "1.1"',
    )
