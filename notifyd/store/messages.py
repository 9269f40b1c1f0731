"""Messages become rows: the message, its deliveries, the inbox of each recipient."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

import msgspec

from notifyd.errors import InvalidMessage
from notifyd.store import arrays, events
from notifyd.store.batch import MessageRow, Place, Refused, Tally
from notifyd.store.cipher import NOT_ENCRYPTED, ContentCipher
from notifyd.store.collapse import Keyed, collapse, key_of
from notifyd.store.days import format_days, midnight
from notifyd.store.pool import Transaction
from notifyd.store.sql import query

#: One statement carries at most so much; its text is twice that, for bytes travel in hex.
_CHUNK_BYTES: Final = 8 * 1024 * 1024
_CHUNK_DELIVERIES: Final = 20_000

#: Then others have their turn.
_FACTS_AT_ONCE: Final = 16

#: An arrival so far from its message's day is odd (`is_odd_arrival`).
_ODD_DAYS: Final = dt.timedelta(days=2)

_encoder = msgspec.json.Encoder()


class MessageFacts(msgspec.Struct, frozen=True, gc=False):
    """What the rows of a message are made of; times in Unix milliseconds, `day` in ISO.

    `due_ms` where it is for later; `after_ms`, from its own time, for the channels of `fallbacks`; `collapse`
    the key of which the newest stays; `traceparent` the trace that its producer named.
    """

    offset: int
    id: str
    day: str
    digest: str
    sender: str
    created_by: str
    type: str
    created_ms: int
    accepted_ms: int
    recipients: tuple[str, ...]
    channels: tuple[str, ...]
    raw: bytes
    due_ms: int | None
    expires_ms: int | None
    fallbacks: tuple[str, ...]
    after_ms: int | None
    collapse: str | None = None
    traceparent: str | None = None

    @property
    def deliveries(self) -> int:
        """How many deliveries it has from the beginning, those of the fallback aside."""
        return len(self.recipients) * len(self.channels)


def message_facts(row: MessageRow) -> MessageFacts | Refused:
    """Read out of a message what its rows need; refused where its content is faulty."""
    message = row.message
    try:
        content = message.content
    except InvalidMessage as error:
        return Refused(row, error.reason, error.message)
    starts_ms, timestamp_ms = content.not_before_ms, message.timestamp_ms
    fallback = content.fallback
    others = tuple(name for name in fallback.channels if name not in content.channels) if fallback else ()
    return MessageFacts(
        row.offset,
        message.id,
        row.day,
        message.digest,
        message.sender,
        message.created_by,
        content.type,
        message.created_at_ms,
        timestamp_ms,
        message.recipients,
        content.channels,
        message.raw,
        starts_ms if starts_ms is not None and starts_ms > timestamp_ms else None,
        content.expires_at_ms(timestamp_ms),
        others,
        int(fallback.after_s * 1000) if fallback and others else None,
        key_of(message.sender, content.collapse_key) if content.collapse_key is not None else None,
        row.traceparent,
    )


class _News:
    """Messages that were not there before, and what else there is to be done about them."""

    __slots__ = ("arrived", "columns", "deliveries", "ids", "inbox", "keyed", "written")

    def __init__(self, written: Sequence[MessageFacts]) -> None:
        self.written = written
        self.ids = arrays.of_plain(list({fact.id: None for fact in written}))
        self.deliveries = sum(fact.deliveries for fact in written)
        #: Those whose time has come, the number of their inbox rows, and those as count_inbox.sql reads them.
        self.arrived = [fact for fact in written if fact.due_ms is None]
        self.inbox = sum(len(fact.recipients) for fact in self.arrived)
        self.columns = _inbox_columns(self.arrived, ()) if self.arrived else {}
        self.keyed = _keyed(self.arrived)


class MessageBatch:
    """Messages of one partition, laid out for the database before a connection is taken for them."""

    def __init__(
        self,
        place: Place,
        rows: Sequence[MessageRow],
        facts: Sequence[MessageFacts],
        refused: list[Refused],
        chunks: Sequence[tuple[list[MessageFacts], dict[str, object]]],
    ) -> None:
        self._place = place
        self._rows = {row.offset: row for row in rows}
        self._facts = {fact.offset: fact for fact in facts}
        self._refused = refused
        self._claims = [fact for fact in facts if not self._rows[fact.offset].message.is_time_ordered]
        self._chunks = chunks
        # As if all were new, which nearly all are: the server does not wait for it then.
        self._as_new = _News(facts)
        #: Offsets of what was written and was not there before.
        self._new: set[int] = set()

    @classmethod
    async def laid_out(
        cls, place: Place, rows: Sequence[MessageRow], content: ContentCipher = NOT_ENCRYPTED
    ) -> MessageBatch:
        """Lay out rows, whose messages are sealed with `content`, a little at a time.

        Others have a batch at its statements meanwhile: each of their answers would wait for all of this.
        """
        facts: list[MessageFacts] = []
        refused: list[Refused] = []
        for number, row in enumerate(rows):
            if number % _FACTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            fact = message_facts(row)
            if isinstance(fact, Refused):
                refused.append(fact)
            else:
                facts.append(fact)
        chunks = [(chunk, place.params(**await _columns(chunk, content))) for chunk in _chunks(facts)]
        batch = cls(place, rows, facts, refused, chunks)
        await asyncio.sleep(0)
        return batch

    async def begin(self, tx: Transaction, start: int) -> int | None:
        """Lock the mark and, where it is at `start`, write the first part, in one go. Return the mark.

        None where there is none yet, or where something else has to be done first: nothing was written.
        """
        if self._refused or self._claims or not self._chunks:
            return None
        (chunk, params), *others = self._chunks
        statements = f"{query('lock_mark')};{query('insert_messages')}"
        [(offsets, mark)] = await tx.fetch(statements, {**params, "expected": start})
        if mark == start:
            self._new.update(_new_of(chunk, offsets))
            self._chunks = others
        return None if mark is None else int(mark)

    async def write(self, tx: Transaction) -> Tally:
        """Write what `begin` did not, and all that belongs to them. Where some are `refused`, faulty or in
        conflict, the rest is not all there: undo it, and write a batch without those.
        """
        facts, new = self._facts, self._new
        tally = Tally(refused=self._refused or await self._claim(tx))
        if tally.refused:
            return tally
        for chunk, params in self._chunks:
            [(offsets, _)] = await tx.fetch(query("insert_messages"), {**params, "expected": None})
            new.update(_new_of(chunk, offsets))
        if len(new) < len(facts):
            again = [fact for offset, fact in facts.items() if offset not in new]
            tally.refused, released = await self._judge(tx, again)
            if tally.refused:
                return tally
            tally.doubles = len(again)
            if released:
                await self._release(tx, released)
        news = self._as_new
        if len(new) < len(facts):
            news = _News([fact for offset, fact in facts.items() if offset in new])
        tally.messages, tally.deliveries, tally.inbox = len(news.written), news.deliveries, news.inbox
        if news.arrived:
            # Before users' rows are locked, as marks do it too: inbox, then counter.
            letting_go = await collapse(tx, news.keyed)
            tally.last = query("count_inbox")
            tally.last_params = _inbox_columns(news.arrived, letting_go) if letting_go else news.columns
        early = await _take_early(tx, news)
        if early:
            if tally.last:
                # Before what was read already is taken off: users' rows are locked in one order.
                await tx.fetch(tally.last, tally.last_params)
                tally.last, tally.last_params = "", {}
            tally.events += await events.apply_to_deliveries(
                tx, self._place, early, {fact.id: fact.accepted_ms for fact in news.written}, tally.ended
            )
            tally.events += await events.apply_to_inbox(tx, self._place, early)
        return tally

    async def _claim(self, tx: Transaction) -> list[Refused]:
        """Settle ids that are not time-ordered, whose day is not in the id: over all days one stands."""
        rows, claims = self._rows, self._claims
        if not claims:
            return []
        params = {"rows": _encode(claims)}
        await tx.fetch(query("claim_ids"), params)
        digests: dict[int, str] = dict(await tx.fetch(query("read_claims"), params))
        return [_conflict(rows[fact.offset]) for fact in claims if digests[fact.offset] != fact.digest]

    async def _judge(
        self, tx: Transaction, facts: Sequence[MessageFacts]
    ) -> tuple[list[Refused], list[MessageFacts]]:
        """Tell doubles from conflicts; doubles whose first copy waits for its time by now release it."""
        params = {"rows": _encode(facts), **events.days_params(fact.day for fact in facts)}
        refused: list[Refused] = []
        released: dict[str, MessageFacts] = {}
        for offset, digest, is_due in await tx.fetch(query("judge_known"), params):
            fact = self._facts[offset]
            if digest != fact.digest:
                refused.append(_conflict(self._rows[offset]))
            elif is_due:
                released.setdefault(fact.id, fact)
        return refused, list(released.values())

    async def _release(self, tx: Transaction, facts: Sequence[MessageFacts]) -> None:
        days = {fact.id: fact.day for fact in facts}
        params = self._place.params(rows=_encode(facts), **events.days_params(days.values()))
        await tx.fetch(query("release_messages"), params)
        await tx.fetch(query("fan_out_released"), params)
        if letting_go := await collapse(tx, _keyed(facts)):
            await tx.fetch(query("expect_expiry"), {"users": arrays.of_texts(letting_go)})
        await events.refresh_messages(tx, days)


async def _take_early(tx: Transaction, news: _News) -> list[events.EventFacts]:
    """Take what was kept for messages until now; what another message of the same id was told is dropped."""
    if not news.written:
        return []
    kept = await tx.fetch(query("take_early_events"), {"ids": news.ids})
    if not kept:
        return []
    by_id = {fact.id: fact for fact in news.written}
    return [
        msgspec.structs.replace(event, d=by_id[event.i].day)
        for event in events.decode([event for (event,) in kept])
        if event.g in ("", by_id[event.i].digest)
    ]


def _new_of(chunk: Sequence[MessageFacts], offsets: Sequence[int] | None) -> Iterable[int]:
    return (fact.offset for fact in chunk) if offsets is None else offsets


def _conflict(row: MessageRow) -> Refused:
    return Refused(
        row, "id_conflict", f"UUID {row.message.id} is already the id of a message with other bytes"
    )


def _chunks(facts: Sequence[MessageFacts]) -> Iterator[list[MessageFacts]]:
    """Split where one statement would become too large."""
    chunk: list[MessageFacts] = []
    size = deliveries = 0
    for fact in facts:
        if chunk and (
            size + len(fact.raw) > _CHUNK_BYTES or deliveries + fact.deliveries > _CHUNK_DELIVERIES
        ):
            yield chunk
            chunk, size, deliveries = [], 0, 0
        chunk.append(fact)
        size += len(fact.raw)
        deliveries += fact.deliveries
    if chunk:
        yield chunk


async def _columns(facts: Sequence[MessageFacts], content: ContentCipher) -> dict[str, object]:
    """Lay out messages as `insert_messages.sql` reads them: see there. One column after the other."""
    stored: list[bytes] = []
    for number, fact in enumerate(facts):
        if number % _FACTS_AT_ONCE == 0:
            await asyncio.sleep(0)
        stored.append(content.seal(fact.id, fact.raw))
    lengths = [len(one) for one in stored]
    numbered = list(enumerate(facts, 1))
    recipients = [(number, user) for number, fact in numbered for user in fact.recipients]
    deliveries = [
        (number, user, channel, None)
        for number, fact in numbered
        for user in fact.recipients
        for channel in fact.channels
    ] + [
        (number, user, channel, fact.after_ms)
        for number, fact in numbered
        if fact.fallbacks
        for user in fact.recipients
        for channel in fact.fallbacks
    ]
    layout: dict[str, Callable[[], object]] = {
        "offsets": lambda: arrays.of_plain([fact.offset for fact in facts]),
        "ids": lambda: arrays.of_plain([fact.id for fact in facts]),
        "days": lambda: arrays.of_plain([fact.day for fact in facts]),
        "digests": lambda: bytes.fromhex("".join([fact.digest for fact in facts])),
        "accepted": lambda: arrays.of_plain([fact.accepted_ms for fact in facts]),
        "created": lambda: arrays.of_plain([fact.created_ms for fact in facts]),
        "due": lambda: arrays.of_optional([fact.due_ms for fact in facts]),
        "expires": lambda: arrays.of_optional([fact.expires_ms for fact in facts]),
        "senders": lambda: arrays.of_texts([fact.sender for fact in facts]),
        "creators": lambda: arrays.of_texts([fact.created_by for fact in facts]),
        "types": lambda: arrays.of_texts([fact.type for fact in facts]),
        "traces": lambda: arrays.of_optional([fact.traceparent for fact in facts]),
        "originals": lambda: arrays.of_bytes(b"".join(stored)),
        "places": lambda: arrays.of_plain(list(accumulate(lengths, initial=1))[:-1]),
        "lengths": lambda: arrays.of_plain(lengths),
        "recipient_of": lambda: arrays.of_plain([number for number, _ in recipients]),
        "recipients": lambda: arrays.of_texts([user for _, user in recipients]),
        "delivery_of": lambda: arrays.of_plain([one[0] for one in deliveries]),
        "delivery_users": lambda: arrays.of_texts([one[1] for one in deliveries]),
        "channels": lambda: arrays.of_texts([one[2] for one in deliveries]),
        "after": lambda: arrays.of_optional([one[3] for one in deliveries]),
    }
    columns: dict[str, object] = {}
    for name, column in layout.items():
        await asyncio.sleep(0)
        columns[name] = column()
    return columns


def _keyed(facts: Sequence[MessageFacts]) -> list[Keyed]:
    return [
        Keyed(fact.id, fact.day, fact.accepted_ms, fact.collapse, fact.recipients)
        for fact in facts
        if fact.collapse is not None
    ]


def _inbox_columns(facts: Sequence[MessageFacts], letting_go: Sequence[str]) -> dict[str, object]:
    """Add the inbox rows of messages up for each user, as `count_inbox.sql` reads them: see there.

    Of the users `letting_go` something has expired already.
    """
    new = Counter([user for fact in facts for user in fact.recipients])
    users = sorted(new)
    days = {fact.day for fact in facts}
    expiries: dict[str, int] = {}
    for fact in facts:
        if fact.expires_ms is not None:
            for user in fact.recipients:
                expiries[user] = min(expiries.get(user, fact.expires_ms), fact.expires_ms)
    expiries.update(dict.fromkeys(letting_go, 0))
    return {
        "all_days": format_days(days),
        "counted_users": arrays.of_texts(users),
        "counted_rows": arrays.of_plain([new[user] for user in users]),
        "counted_days": _days_of(facts, users) if len(days) > 1 else "{}",
        "counted_odd_days": _days_of(odd, users) if (odd := _odd(facts, days)) else "{}",
        "counted_expiries": arrays.of_optional([expiries.get(user) for user in users]) if expiries else "{}",
    }


def _days_of(facts: Sequence[MessageFacts], users: Sequence[str]) -> str:
    days: dict[str, set[str]] = {user: set() for user in users}
    for fact in facts:
        for user in fact.recipients:
            days[user].add(fact.day)
    return arrays.of_texts([format_days(one) for one in days.values()])


def _odd(facts: Sequence[MessageFacts], days: set[str]) -> list[MessageFacts]:
    """Return those that are odd arrivals, as `is_odd_arrival` has it."""
    near: dict[str, tuple[float, float]] = {}
    for day in days:
        begun = midnight(dt.date.fromisoformat(day))
        near[day] = (begun - _ODD_DAYS).timestamp() * 1000, (begun + _ODD_DAYS).timestamp() * 1000
    return [fact for fact in facts if not near[fact.day][0] <= fact.accepted_ms < near[fact.day][1]]


def _encode(facts: Sequence[MessageFacts]) -> str:
    """Encode what the statements about messages that are there already read."""
    return _encoder.encode(
        [
            {
                "o": fact.offset,
                "i": fact.id,
                "d": fact.day,
                "g": fact.digest,
                "a": fact.accepted_ms,
                "x": fact.expires_ms,
                "u": fact.recipients,
            }
            for fact in facts
        ]
    ).decode()
