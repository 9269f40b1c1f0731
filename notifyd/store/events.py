"""Events become rows: logged, and merged into the deliveries and the inbox that they are about."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from notifyd.delivery.event import INBOX_STAGES, Event, decode_events
from notifyd.message.ids import is_time_ordered, is_uuid, time_of
from notifyd.store import arrays
from notifyd.store.batch import EventRecord, Place, Refused, Tally
from notifyd.store.pool import Transaction
from notifyd.store.sql import query

#: Events in one statement: some megabytes of JSON.
_CHUNK_EVENTS: Final = 10_000

_EPOCH: Final = dt.date(1970, 1, 1)
_DAY_MS: Final = 86_400_000

_encoder = msgspec.json.Encoder()


class EventFacts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An event as `apply_events.sql` reads it: see there for what each letter is."""

    k: str
    i: str
    d: str
    u: str
    c: str
    s: str
    r: str
    n: int
    a: int
    p: str
    due: int | None = None
    re: str | None = None
    de: str | None = None
    g: str = ""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event, and the record that it came in."""

    record: EventRecord
    facts: EventFacts

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.record.offset

    @property
    def day(self) -> str:
        """The day of its message, as far as the event can tell (ISO)."""
        return self.facts.d


def read_events(record: EventRecord) -> list[EventRow] | Refused:
    """Read one record of the events topic. A record that is no array of events is refused."""
    try:
        events = decode_events(record.value or b"")
        return [EventRow(record, _facts(event)) for event in events]
    except (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError) as error:
        return Refused(record, "poison", f"is no array of events: {error}")


def _facts(event: Event) -> EventFacts:
    message_id = event.id.lower()
    if is_uuid(message_id) is None:
        raise ValueError(f"id {event.id[:40]!r} is no UUID")
    said = _encoder.encode(
        (
            event.user,
            event.channel,
            event.stage,
            event.run,
            event.attempt,
            event.at,
            event.due,
            event.pod,
            event.reason,
            event.detail,
            # Of the same about two messages with one id each stands for itself.
            event.digest,
        )
    )
    if is_time_ordered(message_id):
        day = _EPOCH + dt.timedelta(days=time_of(message_id) // _DAY_MS)
    else:
        day = (
            dt.date.fromisoformat(event.day) if event.day else _EPOCH + dt.timedelta(days=event.at // _DAY_MS)
        )
    return EventFacts(
        k=hashlib.blake2b(said, digest_size=16).hexdigest(),
        i=message_id,
        d=day.isoformat(),
        u=event.user,
        c=event.channel,
        s=event.stage,
        r=event.run,
        n=event.attempt,
        a=event.at,
        p=event.pod,
        due=event.due,
        re=event.reason,
        de=event.detail,
        g=event.digest,
    )


class EventBatch:
    """Events of one partition, ordered by message before a connection is taken for them."""

    def __init__(self, place: Place, rows: Sequence[EventRow]) -> None:
        self._place = place
        self._facts = {(row.facts.i, row.facts.k): row.facts for row in rows}
        self._by_message: dict[str, list[EventFacts]] = {}
        for fact in self._facts.values():
            self._by_message.setdefault(fact.i, []).append(fact)

    @classmethod
    async def laid_out(cls, place: Place, rows: Sequence[EventRow]) -> EventBatch:
        """Lay out rows, as `MessageBatch` does."""
        return cls(place, rows)

    async def begin(self, tx: Transaction, start: int) -> int | None:
        """Nothing: what is to be locked first takes an answer to be known."""
        return None

    async def write(self, tx: Transaction) -> Tally:
        """Write them. Those of a message that is not there yet are kept for it."""
        place, by_message = self._place, self._by_message
        tally = Tally()
        ordered = {i: found[0].d for i, found in by_message.items() if is_time_ordered(i)}
        unordered = [i for i in by_message if i not in ordered]
        days = {**ordered, **(await _days_of(tx, unordered) if unordered else {})}
        locked = await _lock(tx, days)
        unknown = {i: day for i, day in ordered.items() if i not in locked}
        early = [i for i in unordered if i not in days]
        if unknown:
            held = await tx.fetch(query("hold_unknown_messages"), _keys(unknown))
            early += [i for i, _ in held]
            # Whoever was just writing one of these has ended now, and its row can be seen.
            locked |= await _lock(tx, {i: day for i, day in unknown.items() if (i, day) not in set(held)})
        if early:
            kept = [fact for i in early for fact in by_message[i]]
            await tx.fetch(query("keep_early_events"), {"events": encode(kept)})
            tally.events += len(kept)
            await _free(tx, early, unknown)
        known = [
            msgspec.structs.replace(fact, d=days[i])
            for i, (digest, _) in locked.items()
            for fact in by_message[i]
            if fact.g in ("", digest)
        ]
        begun_ms = {i: begun for i, (_, begun) in locked.items()}
        for start in range(0, len(known), _CHUNK_EVENTS):
            chunk = known[start : start + _CHUNK_EVENTS]
            tally.events += await apply_to_deliveries(tx, place, chunk, begun_ms, tally.ended)
            tally.events += await apply_to_inbox(tx, place, chunk)
        tally.dropped = len(self._facts) - tally.events
        return tally


async def apply_to_deliveries(
    tx: Transaction,
    place: Place,
    facts: Iterable[EventFacts],
    begun_ms: Mapping[str, int],
    ended: list[tuple[str, int]],
) -> int:
    """Log and merge the events about deliveries; their messages' rows are locked. Returns new rows.

    `begun_ms` tells when each message was accepted, or due (Unix ms); `ended` is filled as in `Tally`.
    """
    about = [fact for fact in facts if fact.s not in INBOX_STAGES]
    if not about:
        return 0
    params = place.params(events=encode(about), **days_params(fact.d for fact in about))
    (_, _, logged, _, _), *turned = await tx.fetch(query("apply_events"), params)
    if turned:
        ended += [(channel, at_ms - begun_ms[i]) for i, _, is_end, channel, at_ms in turned if is_end]
        await refresh_messages(tx, {i: day for i, day, *_ in turned})
    return int(logged)


async def apply_to_inbox(tx: Transaction, place: Place, facts: Iterable[EventFacts]) -> int:
    """Log and merge `seen` and `read`; their messages' rows are locked. Returns new rows."""
    about = [fact for fact in facts if fact.s in INBOX_STAGES]
    if not about:
        return 0
    params = place.params(events=encode(about), **days_params(fact.d for fact in about))
    [(logged,)] = await tx.fetch(query("apply_inbox_events"), params)
    return int(logged)


async def refresh_messages(tx: Transaction, days: Mapping[str, str]) -> None:
    """Derive the state of messages (id -> day) anew; their rows are locked."""
    await tx.fetch(query("refresh_messages"), _keys(days))


def encode(facts: Sequence[EventFacts]) -> str:
    """Encode events as the JSON array that the statements read."""
    return _encoder.encode(facts).decode()


def decode(events: Sequence[Any]) -> list[EventFacts]:
    """Read back what `keep_early_events.sql` kept."""
    return msgspec.convert(events, list[EventFacts])


async def _days_of(tx: Transaction, ids: Sequence[str]) -> dict[str, str]:
    """Find the days of ids that do not carry theirs; those that stay unknown are held for us."""
    days: dict[str, str] = dict(await tx.fetch(query("resolve_days"), {"ids": ids}))
    missing = [i for i in ids if i not in days]
    if missing:
        held = {i for (i,) in await tx.fetch(query("hold_unknown_ids"), {"ids": missing})}
        written = [i for i in missing if i not in held]
        if written:
            days |= dict(await tx.fetch(query("resolve_days"), {"ids": written}))
    return days


async def _lock(tx: Transaction, days: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Lock messages (id -> day); return of those that are there the digest, and since when they are due
    (Unix ms).
    """
    if not days:
        return {}
    return {i: (digest, begun) for i, _, digest, begun in await tx.fetch(query("lock_messages"), _keys(days))}


async def _free(tx: Transaction, early: Sequence[str], unknown: Mapping[str, str]) -> None:
    messages = {i: unknown[i] for i in early if i in unknown}
    if messages:
        await tx.fetch(query("free_unknown_messages"), _keys(messages))
    ids = [i for i in early if i not in unknown]
    if ids:
        await tx.fetch(query("free_unknown_ids"), {"ids": ids})


def _keys(days: Mapping[str, str]) -> dict[str, object]:
    """Return keys (id -> day) as the statements take them, in the order in which all lock them."""
    ids = sorted(days)
    return {
        "ids": arrays.of_plain(ids),
        "days": arrays.of_plain([days[i] for i in ids]),
        **days_params(days.values()),
    }


def days_params(days: Iterable[str]) -> dict[str, object]:
    """Return what tells the planner the partitions that matter.

    `day_set` where a key is looked up. Where a table is joined `first_day` alone: nothing is known
    of a new day's table, and equality would make the planner take the whole of it for a few rows.
    """
    day_set = sorted(set(days))
    return {"day_set": day_set, "first_day": day_set[0]}
