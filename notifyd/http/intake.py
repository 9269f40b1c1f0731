"""The body of `POST /v1/messages`: bytes in, checked messages or everything that is wrong out. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from notifyd.delivery.contact import find_contact_faults
from notifyd.errors import InvalidMessage
from notifyd.http.pointers import Pointers
from notifyd.message.envelope import Limits, Message, decode, find_faults, new_id
from notifyd.message.faults import near_key
from notifyd.message.ids import is_time_ordered, is_uuid, time_of
from notifyd.message.text import find_text_faults
from notifyd.push.requests import Refusal

JSON: Final = "application/json"
NDJSON: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")

#: Faults told at most: a hostile body holds tens of thousands, and each costs time to find.
MAX_ERRORS: Final = 100

_BYTE = re.compile(r"\(byte (\d+)\)", re.ASCII)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: `user` of the token, and the id that the request gives its one message, if any."""

    user: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """Messages to write, in their order. `is_batch`: they came as an array or as lines, be it one."""

    messages: tuple[Message, ...]
    is_batch: bool


def read_messages(
    body: bytes, kind: str, sender: Sender, *, limits: Limits, max_messages: int, now_ms: int
) -> Intake:
    """Read one envelope or many; raises `Refusal`, with all faults of all envelopes, if any is faulty.

    `kind` is the media type. Fields that may be left out are filled (`_fill`); an envelope that is
    whole keeps its bytes. `now_ms` is what limits of time are judged against (Unix milliseconds).
    """
    is_batch, values = _split(body, kind, max_messages)
    if sender.message_id is not None and is_batch:
        detail = "Idempotency-Key names one message; give each envelope of a batch its UUID instead"
        raise Refusal(400, "idempotency_key", detail)
    faults: list[tuple[int, InvalidMessage, Pointers]] = []
    messages: list[Message] = []
    for index, value in enumerate(values):
        try:
            messages.append(_read(value, sender, limits, now_ms))
        except _Faulty as error:
            pointers = Pointers(value)
            faults += [(index, fault, pointers) for fault in error.faults]
            if len(faults) > MAX_ERRORS:
                break
    faults += _conflicts(messages) if not faults else []
    if faults:
        raise _refuse(faults, is_batch=is_batch)
    return Intake(tuple(messages), is_batch)


# From the body to values


def _split(body: bytes, kind: str, max_messages: int) -> tuple[bool, Sequence[bytes]]:
    _check_encoding(body)
    if kind in NDJSON:
        lines = list(_lines(body))
        for start, line in lines[: max_messages + 1]:
            _check_json(body, line, start)
        values = [line for _, line in lines]
    elif body.lstrip()[:1] == b"[":
        _check_json(body, body, 0)
        values = [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
    else:
        _check_json(body, body, 0)
        return False, [body.strip()]
    if not values:
        raise Refusal(400, "empty", "the batch is empty: send at least one envelope")
    if len(values) > max_messages:
        detail = f"a batch has {max_messages} messages at most, this one has {len(values)}"
        raise Refusal(413, "batch_too_large", detail)
    return True, values


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in body.split(b"\n"):
        bare = line.strip()
        if bare:
            yield start + line.index(bare), bare
        start += len(line) + 1


def _check_encoding(body: bytes) -> None:
    if not body.strip():
        raise Refusal(400, "empty", "the body is empty: send an envelope as JSON")
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError as error:
        raise _broken(body, error.start, "is not valid UTF-8") from None


def _check_json(body: bytes, text: bytes, start: int) -> None:
    """Raise `Refusal` that names line and column in `body` unless `text`, at `start` in it, is JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except RecursionError:
        raise Refusal(400, "not_json", "the JSON is nested too deep") from None
    except msgspec.DecodeError:
        fault = find_text_faults(text)[0]
        found = _BYTE.search(fault.rule)
        if found is not None:
            # The byte after the one, where there should be none.
            offset = int(found[1]) - ("trailing characters" in fault.rule)
            raise _broken(body, start + offset, fault.rule[: found.start()].rstrip()) from None
        if fault.rule.startswith("ends "):
            raise _broken(body, start + len(text), fault.rule) from None
        raise Refusal(400, "not_json", str(fault)) from None


def _broken(body: bytes, offset: int, rule: str) -> Refusal:
    before = body[:offset]
    line = before.count(b"\n") + 1
    # In characters, as editors count them.
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    detail = f"line {line}, column {column}: {rule}"
    return Refusal(400, "not_json", detail, extra={"line": line, "column": column})


# From a value to a message


class _Faulty(Exception):
    def __init__(self, faults: Sequence[InvalidMessage]) -> None:
        super().__init__()
        self.faults = faults


def _read(value: bytes, sender: Sender, limits: Limits, now_ms: int) -> Message:
    value, faults = _fill(value, sender)
    try:
        message = decode(value, timestamp_ms=now_ms, limits=limits)
        has_contacts = message.content.contacts is not None
    except InvalidMessage as error:
        has_contacts = True  # as far as anybody knows
        _add(faults, find_faults(value, timestamp_ms=now_ms, limits=limits) or [error])
    if has_contacts:
        _add(faults, find_contact_faults(value))
    if faults:
        raise _Faulty(faults)
    return message


def _add(faults: list[InvalidMessage], others: Sequence[InvalidMessage]) -> None:
    """Add faults of fields that none was told of yet."""
    told = {fault.field for fault in faults}
    faults += [fault for fault in others if fault.field not in told]


def _fill(value: bytes, sender: Sender) -> tuple[bytes, list[InvalidMessage]]:
    """Add what may be left out: `UUID`, `createDateTime`, `from`, `createBy`. What is there stays as it is.

    Every filled field but a new UUID follows from the rest of the request, so that one that is repeated
    with its UUID has the same bytes; other bytes under one UUID would be a conflict.
    """
    try:
        fields = _fields_decoder.decode(value)
    except msgspec.MsgspecError:
        return value, []  # no object: the judge of envelopes says so
    faults = []
    added: dict[str, Any] = {}
    message_id = _own_id(fields)
    if _is_left_out("UUID", fields):
        message_id = added["UUID"] = sender.message_id or new_id()
    elif message_id is not None and sender.message_id not in (None, message_id):
        rule, remedy = "is not the UUID of the header Idempotency-Key", "leave out one of the two"
        faults.append(InvalidMessage("UUID", rule, reason="id_conflict", remedy=remedy))
    if _is_left_out("createDateTime", fields):
        # Where the UUID is wrong that is the fault to tell, not that it holds no time.
        message_id = message_id or new_id()
        if is_time_ordered(message_id):
            added["createDateTime"] = _created(message_id)
        else:
            rule = "is missing, and this UUID carries no time: a repetition could not have the same bytes"
            remedy = 'add it, as "2026-11-23T10:00:00Z", or make the UUID of version 7'
            faults.append(InvalidMessage("createDateTime", rule, reason="missing_field", remedy=remedy))
    for name in ("from", "createBy"):
        if _is_left_out(name, fields):
            added[name] = sender.user
    return _encoder.encode({**fields, **added}) if added else value, faults


def _is_left_out(name: str, fields: dict[str, msgspec.Raw]) -> bool:
    """Whether a field is absent on purpose. One that is misspelt is not: the judge says how it is written."""
    return name not in fields and near_key(name, fields) is None


def _own_id(fields: dict[str, msgspec.Raw]) -> str | None:
    try:
        found = msgspec.json.decode(fields.get("UUID", b"null"), type=str | None)
    except msgspec.MsgspecError:
        return None
    return found.lower() if found is not None and is_uuid(found) else None


def _created(message_id: str) -> str:
    """Write the time within a version 7 id as it stands in envelopes; of what is beyond 9999, the end."""
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    at = dt.datetime.fromtimestamp(min(time_of(message_id) / 1000, last.timestamp() - 1), dt.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _conflicts(messages: Sequence[Message]) -> list[tuple[int, InvalidMessage, Pointers]]:
    """Find messages of one id that differ: the second of them would end as a dead letter."""
    first: dict[str, int] = {}
    faults = []
    for index, message in enumerate(messages):
        earlier = first.setdefault(message.id, index)
        if messages[earlier].raw != message.raw:
            rule = f"is that of message {earlier} of this batch too, which is another"
            fault = InvalidMessage("UUID", rule, reason="id_conflict", remedy="give each its own")
            faults.append((index, fault, Pointers(message.raw)))
    return faults


# What is said of faults


def _refuse(faults: Sequence[tuple[int, InvalidMessage, Pointers]], *, is_batch: bool) -> Refusal:
    errors = []
    for index, fault, pointers in faults[:MAX_ERRORS]:
        pointer = (f"/{index}" if is_batch else "") + pointers.find(fault.field)
        detail = f"{fault.rule}; {fault.remedy}" if fault.remedy else fault.rule
        errors.append({"pointer": pointer, "detail": detail, "code": fault.reason})
    codes = {fault.reason for _, fault, _ in faults}
    status, code = 422, "invalid_message"
    if "not_json" in codes:
        status, code = 400, "not_json"
    elif codes == {"too_large"}:
        status, code = 413, "too_large"
    count = len({index for index, _, _ in faults})
    what = f"{count} messages of the batch are" if count > 1 else "the message is"
    more = f" (the first {MAX_ERRORS} faults are told)" if len(faults) > MAX_ERRORS else ""
    return Refusal(status, code, f"{what} faulty{more}; nothing was sent", errors=errors)
