"""Dead letters replayed or discarded: in batches, at a rate, each with a note of who did it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from notifyd.delivery.audit import Action, AuditTrail, Handled, Place
from notifyd.errors import NotifydError
from notifyd.message.ids import is_uuid, new_id
from notifyd.stream.dead_letter import DeadLetter
from notifyd.stream.records import OutRecord, RecordPlace
from notifyd.stream.replay import Selection, names_in, replay_record
from notifyd.stream.topics import Topics

#: Letters between two notes in the audit: so many come again where a replay is killed.
BATCH: Final = 200
#: Bytes of them that are held at a time; what is over ends a batch before.
_BATCH_BYTES: Final = 16 * 1024 * 1024

Send = Callable[[Sequence[OutRecord]], Awaitable[Sequence[RecordPlace | NotifydError]]]
_Letter = tuple[DeadLetter, OutRecord | None]


@dataclass(slots=True)
class Tally:
    """How far it came. `before`: handled earlier. `refused`: the places of those that cannot be, by why.

    `passed`: for each partition the offset to go on at; after an error, that of the batch that failed.
    """

    done: int = 0
    before: int = 0
    refused: dict[str, list[Place]] = field(default_factory=dict)
    passed: dict[int, int] = field(default_factory=dict)
    is_cut: bool = False  # by the limit


class DeadLetterWork:
    """One pass over dead letters. Without an `actor` it only counts.

    `send` tells of each record what became of it. `limit`: so many are done at most. `rate`: in a second.
    `again`: those too that something was done with before.
    """

    def __init__(
        self,
        action: Action,
        selection: Selection,
        *,
        topics: Topics,
        audit: AuditTrail,
        send: Send,
        limit: int | None = None,
        rate: float = float("inf"),
        again: bool = False,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.action = action
        self.tally = Tally()
        self._selection = selection
        self._topics = topics
        self._audit = audit
        self._send = send
        self._limit = limit
        self._rate = rate
        self._again = again
        self._pause = pause
        self._scanned: dict[int, int] = {}

    async def run(
        self,
        letters: AsyncIterator[DeadLetter],
        *,
        actor: str | None,
        tell: Callable[[int], None] | None = None,
    ) -> Tally:
        """Do it, and `tell` how many are done so far.

        Raises what `send` and the audit raise; what was done by then is in `tally`, and in the audit.
        """
        began = time.monotonic()
        held: list[DeadLetter] = []
        size = 0
        async for letter in letters:
            if self._selection.takes(letter):
                held.append(letter)
                size += len(letter.value or b"")
            self._scanned[letter.partition] = letter.offset + 1
            if len(held) >= self._room() or size >= _BATCH_BYTES:
                await self._do(held, actor, tell)
                held, size = [], 0
                if self.tally.done == self._limit:
                    self.tally.is_cut = True
                    return self.tally
                if actor is not None:
                    ahead_s = self.tally.done / self._rate - (time.monotonic() - began)
                    if ahead_s > 0:
                        await self._pause(ahead_s)
        await self._do(held, actor, tell)
        return self.tally

    def _room(self) -> int:
        """How many letters make a batch."""
        most = max(1, int(min(BATCH, self._rate)))
        return most if self._limit is None else min(most, self._limit - self.tally.done)

    async def _do(
        self, held: Sequence[DeadLetter], actor: str | None, tell: Callable[[int], None] | None
    ) -> None:
        places = [(letter.partition, letter.offset) for letter in held]
        handled = set() if self._again else await self._audit.handled(places)
        batch: list[_Letter] = []
        for letter, place in zip(held, places, strict=True):
            if place in handled:
                self.tally.before += 1
                continue
            record = replay_record(letter, self._topics, new_id()) if self.action == "replay" else None
            if isinstance(record, str):
                self._refuse(place, record)
            else:
                batch.append((letter, record))
        error: NotifydError | None = None
        if actor is not None and batch:
            batch, error = await self._hand_over(batch)
            if batch:
                await self._audit.write(
                    [_handled(letter) for letter, _ in batch], actor=actor, action=self.action
                )
        self.tally.done += len(batch)
        if error is not None:
            raise error
        self.tally.passed = dict(self._scanned)
        if tell is not None:
            tell(self.tally.done)

    async def _hand_over(self, batch: list[_Letter]) -> tuple[list[_Letter], NotifydError | None]:
        """Return those that Kafka has, or that need not be sent, and the first error of the others."""
        results = await self._send([record for _, record in batch if record is not None])
        if not results:
            return batch, None
        sent: list[_Letter] = []
        first: NotifydError | None = None
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, RecordPlace):
                sent.append(one)
            elif result.reason == "record_too_large":
                self._refuse((one[0].partition, one[0].offset), "it is too large for the topic it came from")
            else:
                first = first or result
        return sent, first

    def _refuse(self, place: Place, why: str) -> None:
        self.tally.refused.setdefault(why, []).append(place)


def _handled(letter: DeadLetter) -> Handled:
    message_id, _ = names_in(letter)
    known = message_id if message_id is not None and is_uuid(message_id) else None
    return Handled(letter.partition, letter.offset, known, letter.reason)
