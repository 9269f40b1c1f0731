"""Every fault of an envelope, explained field by field. Slow and thorough; its verdict decides.

`decode` comes here only with a value that its quick way did not take: a faulty one, or a sound
one of a rarer form (a bare date, a leap second, a key twice).
"""

from __future__ import annotations

import datetime as dt
import difflib
from typing import Final, NamedTuple, TypeVar

import msgspec

from notifyd.errors import InvalidMessage
from notifyd.message.ids import is_time_ordered, is_uuid, time_of
from notifyd.message.limits import Limits
from notifyd.message.text import find_text_faults, is_object, shorten
from notifyd.message.times import DAY_MS, date_of, parse_date_or_time_ms

#: The wire, exactly.
NAMES: Final = ("from", "UUID", "content", "toUserIds", "createBy", "createDateTime")

_EXAMPLES: Final = {
    "from": 'the sending system, as "orders"',
    "UUID": 'an id of your making, as "01a207d9-2100-7d44-9f6a-0d1f5a2b9c11"',
    "content": 'an object, as {"version": 1.1, "title": "On its way"}',
    "toUserIds": 'a list of user ids, as ["alice", "bob"]',
    "createBy": 'who created it, as "orders-svc"',
    "createDateTime": 'a date or an RFC 3339 time, as "2026-11-23T10:00:00Z"',
}

#: Above it nobody misspelt a key; comparing 20,000 of them took 0.2 s.
_MAX_KEYS_COMPARED: Final = 100

_T = TypeVar("_T")
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Parts(NamedTuple):
    """The fields of a sound envelope, read and made canonical."""

    id: str
    sender: str
    recipients: tuple[str, ...]
    created_by: str
    created_at_ms: int
    day: dt.date
    is_time_ordered: bool


class Verdict(NamedTuple):
    """The parts of a sound envelope or its faults; the raw `content` wherever there is one."""

    parts: Parts | None
    faults: list[InvalidMessage]
    content: msgspec.Raw | None


def inspect(value: bytes | None, *, timestamp_ms: int, limits: Limits, is_exempt: bool) -> Verdict:
    """Read an envelope but for what is within its `content`: its parts, or all its faults."""
    if not value:
        return _refuse("has no value", "empty", "write one envelope as the value of the record")
    if len(value) > limits.max_bytes:
        rule = f"is {len(value)} bytes long; at most {limits.max_bytes} are taken"
        remedy = "shorten it, send a link to what is large, or raise NOTIFYD_MESSAGE_MAX_BYTES"
        return _refuse(rule, "too_large", remedy)
    faults = find_text_faults(value)
    if faults and faults[0].reason != "nul":
        return Verdict(None, faults, None)
    try:
        fields = _fields_decoder.decode(value)
    except msgspec.ValidationError:
        return _refuse("is not a JSON object", "not_an_object", "write one envelope as one JSON object")
    except msgspec.DecodeError:  # raw NUL bytes, already told of
        return Verdict(None, faults, None)
    return _Inspection(fields, timestamp_ms, limits, is_exempt, faults).run()


def _refuse(rule: str, reason: str, remedy: str) -> Verdict:
    return Verdict(None, [InvalidMessage("", rule, reason=reason, remedy=remedy)], None)


class _Inspection:
    """One pass over the fields of one envelope, gathering faults."""

    def __init__(
        self,
        fields: dict[str, msgspec.Raw],
        timestamp_ms: int,
        limits: Limits,
        is_exempt: bool,
        faults: list[InvalidMessage],
    ) -> None:
        self._fields = fields
        self._timestamp_ms = timestamp_ms
        self._limits = limits
        self._is_exempt = is_exempt
        self._faults = faults

    def run(self) -> Verdict:
        sender = self._read("from", str, "string")
        message_id = self._read_id()
        content = self._read_content()
        recipients = self._read_recipients()
        created_by = self._read("createBy", str, "string")
        created_at_ms = self._read_created()
        day = self._derive_day(message_id, created_at_ms)
        if (
            self._faults
            or sender is None
            or message_id is None
            or content is None
            or recipients is None
            or created_by is None
            or created_at_ms is None
            or day is None
        ):
            return Verdict(None, self._faults, content)
        is_v7 = is_time_ordered(message_id)
        parts = Parts(message_id, sender, recipients, created_by, created_at_ms, day, is_v7)
        return Verdict(parts, [], content)

    def _fault(self, field: str, rule: str, reason: str, remedy: str) -> None:
        self._faults.append(InvalidMessage(field, rule, reason=reason, remedy=remedy))

    def _read(self, name: str, kind: type[_T], word: str) -> _T | None:
        raw = self._fields.get(name)
        if raw is None:
            near = near_key(name, self._fields)
            remedy = f'rename "{near}" to "{name}"' if near else f"add {_EXAMPLES[name]}"
            self._fault(name, "is missing", "missing_field", remedy)
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, RecursionError):
            self._fault(name, f"must be a {word}", "wrong_type", f"write {_EXAMPLES[name]}")
            return None

    def _read_id(self) -> str | None:
        text = self._read("UUID", str, "string")
        if text is None or is_uuid(text):
            return None if text is None else text.lower()
        rule = "is not a UUID in the form of RFC 9562"
        self._fault(
            "UUID", rule, "bad_uuid", f"write 8-4-4-4-12 hexadecimal digits, as {_EXAMPLES['UUID'][-38:]}"
        )
        return None

    def _read_content(self) -> msgspec.Raw | None:
        raw = self._read("content", msgspec.Raw, "JSON object")
        if raw is None or is_object(raw):
            return raw
        self._fault("content", "must be a JSON object", "wrong_type", f"write {_EXAMPLES['content']}")
        return None

    def _read_recipients(self) -> tuple[str, ...] | None:
        limits = self._limits
        entries = self._read("toUserIds", list[msgspec.Raw], "list of user ids")
        if entries is None:
            return None
        if not entries:
            remedy = "name at least one user id"
            self._fault("toUserIds", "is empty", "no_recipients", remedy)
            return None
        if len(entries) > limits.max_recipients:
            rule = f"names {len(entries)} users; at most {limits.max_recipients} are taken"
            remedy = "send several messages, each with a UUID of its own"
            self._fault("toUserIds", rule, "too_many_recipients", remedy)
            return None
        users = []
        for index, raw in enumerate(entries):
            field = f"toUserIds[{index}]"
            try:
                user = msgspec.json.decode(raw, type=str)
            except msgspec.MsgspecError:
                self._fault(field, "must be a string", "bad_user_id", 'write user ids as strings, as "42"')
                continue
            if not 0 < len(user) <= limits.max_user_id_chars:
                rule = f"is {len(user)} characters long; a user id has 1 to {limits.max_user_id_chars}"
                self._fault(field, rule, "bad_user_id", "write the user's id, or leave the entry out")
            users.append(user)
        return tuple(dict.fromkeys(users))

    def _read_created(self) -> int | None:
        text = self._read("createDateTime", str, "string")
        if text is None:
            return None
        at_ms = parse_date_or_time_ms(text)
        if at_ms is None:
            rule = "is neither a date nor an RFC 3339 time with its offset"
            remedy = 'write "2026-11-23", "2026-11-23T10:00:00Z" or "2026-11-23T10:00:00+02:00"'
            self._fault("createDateTime", rule, "bad_date", remedy)
            return None
        _, last_day = self._limits.days_around(self._timestamp_ms)
        if not self._is_exempt and at_ms // DAY_MS > last_day:
            # A date this far ahead is a mistake even where the id carries the day.
            self._fault_day("createDateTime", "the time", at_ms)
        return at_ms

    def _derive_day(self, message_id: str | None, created_at_ms: int | None) -> dt.date | None:
        """The day of DESIGN's section 8: the time within a v7 id, else `createDateTime`."""
        if message_id is not None and is_time_ordered(message_id):
            field, word, at_ms = "UUID", "the time within this version 7 id", time_of(message_id)
        elif message_id is not None and created_at_ms is not None:
            field, word, at_ms = "createDateTime", "the time", created_at_ms
        else:
            return None
        day = date_of(at_ms // DAY_MS)
        first_day, last_day = self._limits.days_around(self._timestamp_ms)
        is_within = self._is_exempt or first_day <= at_ms // DAY_MS <= last_day
        if day is not None and is_within:
            return day
        if not any(fault.field == field and fault.reason == "date_out_of_range" for fault in self._faults):
            self._fault_day(field, word, at_ms)
        return None

    def _fault_day(self, field: str, word: str, at_ms: int) -> None:
        day = date_of(at_ms // DAY_MS)
        where = f"{day.isoformat()} (UTC)" if day else "beyond the years 1 to 9999"
        behind, ahead = self._limits.retention_s / 86_400, self._limits.max_ahead_s / 86_400
        rule = f"{word} is {where}; at most {behind:g} days before and {ahead:g} after its record are taken"
        remedy = "check the clock of the sender"
        if field == "UUID":
            remedy += ", or make an id of version 4"
        self._fault(field, rule, "date_out_of_range", remedy)


def near_key(name: str, fields: dict[str, msgspec.Raw]) -> str | None:
    """Find the unknown key that was probably meant to be `name`, one of `NAMES`."""
    if len(fields) > _MAX_KEYS_COMPARED:
        return None
    unknown = {key.casefold(): key for key in fields if key not in NAMES and len(key) <= 64}
    found = difflib.get_close_matches(name.casefold(), unknown, n=1, cutoff=0.7)
    return shorten(unknown[found[0]]) if found else None
