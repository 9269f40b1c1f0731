"""Messages become rows: the message, its deliveries, the inbox of each recipient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from notifyd.errors import InvalidMessage
from notifyd.store import events
from notifyd.store.batch import MessageRow, Place, Refused, Tally
from notifyd.store.pool import Transaction
from notifyd.store.sql import query

#: One statement carries at most so much; its text is twice that, for bytes travel in hex.
_CHUNK_BYTES: Final = 8 * 1024 * 1024
_CHUNK_DELIVERIES: Final = 20_000

_encoder = msgspec.json.Encoder()


class MessageFacts(msgspec.Struct, gc=False, omit_defaults=True):
    """A message as `insert_messages.sql` reads it: see there for what each letter is."""

    o: int
    i: str
    d: str
    g: str
    s: str
    b: str
    t: str
    c: int
    a: int
    u: tuple[str, ...]
    ch: tuple[str, ...]
    n: int | None = None
    x: int | None = None
    p: int = 0
    l: int = 0  # noqa: E741
    f: tuple[str, ...] | None = None
    fa: int | None = None


def message_facts(row: MessageRow) -> MessageFacts | Refused:
    """Read out of a message what its rows need; refused where its content is faulty."""
    message = row.message
    try:
        content = message.content
    except InvalidMessage as error:
        return Refused(row, error.reason, error.message)
    starts_ms = content.not_before_ms
    is_ahead = starts_ms is not None and starts_ms > message.timestamp_ms
    fallback = content.fallback
    others = tuple(name for name in fallback.channels if name not in content.channels) if fallback else ()
    return MessageFacts(
        o=row.offset,
        i=message.id,
        d=message.day.isoformat(),
        g=message.digest,
        s=message.sender,
        b=message.created_by,
        t=content.type,
        c=message.created_at_ms,
        a=message.timestamp_ms,
        u=message.recipients,
        ch=content.channels,
        n=starts_ms if is_ahead else None,
        x=content.expires_at_ms(message.timestamp_ms),
        l=len(message.raw),
        f=others or None,
        fa=int(fallback.after_s * 1000) if fallback and others else None,
    )


async def write_messages(tx: Transaction, place: Place, rows: Sequence[MessageRow]) -> Tally:
    """Write the messages of a batch and all that belongs to them; `refused` are those in conflict."""
    tally = Tally()
    by_offset: dict[int, MessageRow] = {}
    facts: dict[int, MessageFacts] = {}
    for row in rows:
        fact = message_facts(row)
        by_offset[row.offset] = row
        if isinstance(fact, Refused):
            tally.refused.append(fact)
        else:
            facts[row.offset] = fact
    tally.refused += await _claim(tx, by_offset, facts)
    for one in tally.refused:
        facts.pop(one.offset, None)
    new: set[int] = set()
    for chunk in _chunks(list(facts.values())):
        originals = bytearray()
        for fact in chunk:
            raw = by_offset[fact.o].message.raw
            fact.p = len(originals) + 1
            originals += raw
        params = place.params(rows=_encode(chunk), originals=bytes(originals))
        new.update(offset for (offset,) in await tx.fetch(query("insert_messages"), params))
    if len(new) < len(facts):
        again = [fact for offset, fact in facts.items() if offset not in new]
        refused, released = await _judge(tx, by_offset, again)
        tally.refused += refused
        tally.doubles = len(again) - len(refused)
        if tally.refused:
            return tally  # the batch is written again without these, so nothing more is worth doing
        if released:
            await _release(tx, place, released)
    tally.messages = len(new)
    tally.deliveries = sum(len(facts[offset].u) * len(facts[offset].ch) for offset in new)
    early = await _take_early(tx, [facts[offset] for offset in new])
    tally.events += await events.apply_to_deliveries(tx, place, early)
    tally.inbox = sum(len(facts[offset].u) for offset in new if facts[offset].n is None)
    tally.events += await events.apply_to_inbox(tx, place, early)
    return tally


async def _claim(
    tx: Transaction, rows: dict[int, MessageRow], facts: dict[int, MessageFacts]
) -> list[Refused]:
    """Settle ids that are not time-ordered, whose day is not in the id: over all days one stands."""
    claims = [fact for offset, fact in facts.items() if not rows[offset].message.is_time_ordered]
    if not claims:
        return []
    params = {"rows": _encode(claims)}
    await tx.fetch(query("claim_ids"), params)
    digests: dict[int, str] = dict(await tx.fetch(query("read_claims"), params))
    return [_conflict(rows[fact.o]) for fact in claims if digests[fact.o] != fact.g]


async def _judge(
    tx: Transaction, rows: dict[int, MessageRow], facts: Sequence[MessageFacts]
) -> tuple[list[Refused], list[MessageFacts]]:
    """Tell doubles from conflicts; doubles whose first copy waits for its time by now release it."""
    by_offset = {fact.o: fact for fact in facts}
    params = {"rows": _encode(facts), **events.days_params(fact.d for fact in facts)}
    refused: list[Refused] = []
    released: dict[str, MessageFacts] = {}
    for offset, digest, is_due in await tx.fetch(query("judge_known"), params):
        fact = by_offset[offset]
        if digest != fact.g:
            refused.append(_conflict(rows[offset]))
        elif is_due:
            released.setdefault(fact.i, fact)
    return refused, list(released.values())


async def _release(tx: Transaction, place: Place, facts: Sequence[MessageFacts]) -> None:
    days = {fact.i: fact.d for fact in facts}
    params = place.params(rows=_encode(facts), **events.days_params(days.values()))
    await tx.fetch(query("release_messages"), params)
    await tx.fetch(query("fan_out_released"), params)
    await events.refresh_messages(tx, days)


async def _take_early(tx: Transaction, new: Sequence[MessageFacts]) -> list[events.EventFacts]:
    """Take what was kept for messages until now; what another message of the same id was told is dropped."""
    by_id = {fact.i: fact for fact in new}
    if not by_id:
        return []
    kept = await tx.fetch(query("take_early_events"), {"ids": list(by_id)})
    return [
        msgspec.structs.replace(event, d=by_id[event.i].d)
        for event in events.decode([event for (event,) in kept])
        if event.g in ("", by_id[event.i].g)
    ]


def _conflict(row: MessageRow) -> Refused:
    return Refused(
        row, "id_conflict", f"UUID {row.message.id} is already the id of a message with other bytes"
    )


def _chunks(facts: Sequence[MessageFacts]) -> Iterator[list[MessageFacts]]:
    """Split where one statement would become too large."""
    chunk: list[MessageFacts] = []
    size = deliveries = 0
    for fact in facts:
        count = len(fact.u) * len(fact.ch)
        if chunk and (size + fact.l > _CHUNK_BYTES or deliveries + count > _CHUNK_DELIVERIES):
            yield chunk
            chunk, size, deliveries = [], 0, 0
        chunk.append(fact)
        size += fact.l
        deliveries += count
    if chunk:
        yield chunk


def _encode(facts: Sequence[MessageFacts]) -> str:
    return _encoder.encode(facts).decode()
