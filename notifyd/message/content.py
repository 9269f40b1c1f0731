"""What notifyd itself reads of `content`, and what may be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from notifyd.errors import InvalidMessage
from notifyd.message.limits import Limits
from notifyd.message.text import MAX_ALIKE, is_object, shorten
from notifyd.message.times import parse_duration_s, parse_time_ms
from notifyd.message.versions import Content11, is_known_major, parse_version

DEFAULT_CHANNELS: Final = ("ws",)
MAX_CHANNELS: Final = 16
MAX_COLLAPSE_KEY_CHARS: Final = 128

#: What clients show; its form may change with a major version. All other fields are between
#: producer and notifyd and mean the same in every version, so that a `notBefore` is kept and
#: addresses stay hidden in versions that this server does not know.
_SHOWN: Final = frozenset({"type", "title", "body", "url", "data"})

_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_decoder = msgspec.json.Decoder(Content11)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Fallback(msgspec.Struct, frozen=True):
    """Where nobody has seen the message `after_s` seconds later, it goes to these channels."""

    after_s: float
    channels: tuple[str, ...]


class Content(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`content` as notifyd reads it. Absent texts are empty, absent limits None.

    `version` as `major.minor`; `contacts` raw by user id (for the role deliver alone);
    `ttl_s` seconds from the record's timestamp; `not_before_ms` Unix milliseconds.
    """

    version: str
    type: str = ""
    title: str = ""
    body: str = ""
    url: str | None = None
    data: msgspec.Raw | None = None
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    contacts: Mapping[str, msgspec.Raw] | None = None
    ttl_s: float | None = None
    until_ms: int | None = None
    not_before_ms: int | None = None
    collapse_key: str | None = None
    critical: bool = False
    fallback: Fallback | None = None

    def expires_at_ms(self, timestamp_ms: int) -> int | None:
        """When it is too late to deliver (Unix ms), for a record of that time; None: never.

        `ttl` counts from the record, `expiresAt` stands for itself; of both the earlier holds.
        """
        if self.ttl_s is None:
            return self.until_ms
        ends_ms = timestamp_ms + int(self.ttl_s * 1000)
        return ends_ms if self.until_ms is None else min(ends_ms, self.until_ms)

    def __repr__(self) -> str:
        # No contacts and no texts: reprs end up in logs.
        return f"<Content {self.version} {self.type!r} by {', '.join(self.channels)}>"


def read_content(
    raw: msgspec.Raw | bytes, *, timestamp_ms: int, limits: Limits, is_exempt: bool
) -> Content | list[InvalidMessage]:
    """Read the `content` of an envelope that is sound otherwise: a `Content`, or all its faults.

    `raw` is a JSON object. Every fault has the reason `bad_content`.
    """
    faults: list[InvalidMessage] = []
    try:
        wire = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        wire, faults = _decode_by_field(raw)
    return _Reading(timestamp_ms, limits, is_exempt, faults).read(wire)


class _Reading:
    """One pass over the fields of one content, gathering faults."""

    def __init__(
        self, timestamp_ms: int, limits: Limits, is_exempt: bool, faults: list[InvalidMessage]
    ) -> None:
        self._timestamp_ms = timestamp_ms
        self._limits = limits
        self._is_exempt = is_exempt
        self._faults = faults

    def read(self, wire: Content11) -> Content | list[InvalidMessage]:
        version = parse_version(wire.version)
        if version is None:
            self._fault("version")
        not_before_ms = self._read_time("notBefore", wire.not_before)
        until_ms = self._read_time("expiresAt", wire.expires_at)
        ttl_s = self._read_duration("ttl", wire.ttl)
        fallback = self._read_fallback(wire.fallback)
        channels: tuple[str, ...] = DEFAULT_CHANNELS
        if wire.channels is not None:
            channels = self._read_channels("channels", wire.channels)
        if wire.collapse_key is not None and not 0 < len(wire.collapse_key) <= MAX_COLLAPSE_KEY_CHARS:
            self._fault("collapseKey")
        unfit = (user for user, contact in (wire.contacts or {}).items() if not is_object(contact))
        for user in islice(unfit, MAX_ALIKE):
            self._fault(f"contacts.{user}", "contacts")
        if until_ms is not None and not_before_ms is not None and until_ms <= not_before_ms:
            self._add("expiresAt", "is not after notBefore", "give it time between the two")
        is_limited = not (not_before_ms is None and until_ms is None and ttl_s is None and fallback is None)
        if is_limited and not self._is_exempt:
            self._judge_life(not_before_ms, until_ms, ttl_s, fallback)
        if self._faults or version is None:
            return self._faults
        return Content(
            version=f"{version[0]}.{version[1]}",
            type=wire.type or "",
            title=wire.title or "",
            body=wire.body or "",
            url=wire.url,
            data=None if bytes(wire.data) == b"null" else wire.data,
            channels=channels,
            contacts=wire.contacts,
            ttl_s=ttl_s,
            until_ms=until_ms,
            not_before_ms=not_before_ms,
            collapse_key=wire.collapse_key,
            critical=bool(wire.critical),
            fallback=fallback,
        )

    def _judge_life(
        self, not_before_ms: int | None, until_ms: int | None, ttl_s: float | None, fallback: Fallback | None
    ) -> None:
        """Hold the whole life of the message within the retention: beyond it nobody knows it."""
        retention_s = self._limits.retention_s
        delay_s = 0.0
        if not_before_ms is not None:
            delay_s = max(0.0, (not_before_ms - self._timestamp_ms) / 1000)
        lives = {"notBefore": delay_s}
        if until_ms is not None:
            lives["expiresAt"] = (until_ms - self._timestamp_ms) / 1000
        if ttl_s is not None:
            lives["ttl"] = delay_s + ttl_s
        if fallback is not None:
            lives["fallback.after"] = delay_s + fallback.after_s
        for name, life_s in lives.items():
            if life_s > retention_s:
                rule = (
                    f"reaches {life_s / 86_400:.1f} days ahead{' (notBefore included)' if delay_s else ''}; "
                    f"messages are kept for {retention_s / 86_400:g}"
                )
                self._add(name, rule, "choose an earlier end, or raise NOTIFYD_TOPIC_RETENTION_S")
                if name == "notBefore":
                    return  # all others are late for this reason alone

    def _read_time(self, name: str, text: str | None) -> int | None:
        if text is None:
            return None
        at_ms = parse_time_ms(text)
        if at_ms is None:
            self._fault(name)
        return at_ms

    def _read_duration(self, name: str, value: float | str | None) -> float | None:
        if value is None:
            return None
        duration_s = parse_duration_s(value)
        if duration_s is None:
            self._fault(name)
        return duration_s

    def _read_channels(self, name: str, channels: Sequence[str]) -> tuple[str, ...]:
        if not 0 < len(channels) <= MAX_CHANNELS:
            self._fault(name, "channels")
            return ()
        for index, channel in enumerate(channels):
            if _CHANNEL.fullmatch(channel) is None:
                self._fault(f"{name}[{index}]", "channel")
        return tuple(dict.fromkeys(channels))

    def _read_fallback(self, wire: Any) -> Fallback | None:
        if wire is None:
            return None
        after_s = self._read_duration("fallback.after", wire.after)
        channels = self._read_channels("fallback.channels", wire.channels)
        return None if after_s is None else Fallback(after_s, channels)

    def _fault(self, name: str, rule_name: str | None = None) -> None:
        self._add(name, *_RULES[rule_name or name])

    def _add(self, name: str, rule: str, remedy: str) -> None:
        self._faults.append(_bad(name, rule, remedy))


def _decode_by_field(raw: msgspec.Raw | bytes) -> tuple[Content11, list[InvalidMessage]]:
    """Decode what can be decoded, one field at a time; a fault for each of the others."""
    fields = _fields_decoder.decode(raw)
    found: dict[str, Any] = {}
    faults: dict[str, InvalidMessage] = {}
    for wire_name, (name, decoder) in _field_decoders.items():
        if wire_name not in fields:
            continue
        try:
            found[name] = decoder.decode(fields[wire_name])
        except (msgspec.MsgspecError, RecursionError) as error:
            faults[wire_name] = _bad(wire_name + _path_of(error), *_RULES[wire_name])
    version = parse_version(found.get("version"))
    if version is not None and not is_known_major(version[0]):
        faults = {name: fault for name, fault in faults.items() if name not in _SHOWN}
    return Content11(**found), list(faults.values())


_field_decoders: Final[Mapping[str, tuple[str, msgspec.json.Decoder[Any]]]] = {
    field.encode_name: (field.name, msgspec.json.Decoder(field.type))
    for field in msgspec.structs.fields(Content11)
}


def _path_of(error: Exception) -> str:
    """Take `[3]` or `.after` out of msgspec's "Expected `str`, got `int` - at `$[3]`"."""
    return str(error).partition(" - at `$")[2].rstrip("`")


def _bad(name: str, rule: str, remedy: str) -> InvalidMessage:
    return InvalidMessage(shorten(f"content.{name}"), rule, reason="bad_content", remedy=remedy)


_TEXT_RULE = ("must be a string", "write a string, or leave it out")
_TIME_RULE = ("is not an RFC 3339 time with its offset", 'write it as "2026-11-23T10:00:00Z"')
_DURATION_RULE = (
    "is neither a number of seconds above 0 nor a duration",
    'write 900 or "15m" (units ms, s, m, h, d; ten years at most), or leave it out',
)
#: Rule and remedy by field.
_RULES: Final[Mapping[str, tuple[str, str]]] = {
    "version": ("is not a version", 'write 1.1 or "1.1", or leave it out for 1.0'),
    "type": _TEXT_RULE,
    "title": _TEXT_RULE,
    "body": _TEXT_RULE,
    "url": _TEXT_RULE,
    "channels": (
        f"must be a list of 1 to {MAX_CHANNELS} channel names",
        'write it as ["ws", "webhook"], or leave it out for ["ws"]',
    ),
    "channel": (
        "is not a channel name",
        'write small letters, digits, "-" and "_", 32 at most, a letter first, as "webhook"',
    ),
    "contacts": (
        "must be an object of contacts by user id",
        'write it as {"alice": {"webhook": [{"url": "https://..."}]}}',
    ),
    "ttl": _DURATION_RULE,
    "expiresAt": _TIME_RULE,
    "notBefore": _TIME_RULE,
    "collapseKey": (
        f"must be a string of 1 to {MAX_COLLAPSE_KEY_CHARS} characters",
        "shorten it, or leave it out",
    ),
    "critical": ("must be true or false", "write true or false, or leave it out"),
    "fallback": (
        "must be an object with after and channels",
        'write it as {"after": "15m", "channels": ["email"]}',
    ),
    "fallback.after": _DURATION_RULE,
}
