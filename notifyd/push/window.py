"""The replay window: the last minutes of messages in memory, by user, with what it covers. Pure.

Of each partition it knows one range of offsets, [floor, end): every message of that range is in
here, and nothing is known of what lies outside. All that is read goes through it, so `end` is
also how far this process has got.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

import msgspec

from notifyd.message.envelope import Message

#: What one message costs beside its bytes, decoded and indexed (measured).
ENTRY_BYTES: Final = 900
#: What each recipient costs: a place on a list, and the list where it is the user's only one.
RECIPIENT_BYTES: Final = 250

_number_of = attrgetter("number")
_offset_of = attrgetter("offset")


class Entry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A message in the window. `number` counts all messages in the order they came."""

    message: Message
    partition: int
    offset: int
    number: int
    kept_at: float
    size: int


class _Line(list[Entry | None]):
    """Entries in the order of their numbers, taken away at the front: those before `head` are gone.

    A deque would cost 600 bytes for a single entry, and cannot be searched.
    """

    __slots__ = ("head",)

    def __init__(self) -> None:
        self.head = 0

    def drop_first(self) -> bool:
        """Take the first one away; true when none is left."""
        head = self.head
        self[head] = None
        self.head = head = head + 1
        if head == len(self):
            return True
        if head > 16 and head * 2 > len(self):
            del self[:head]
            self.head = 0
        return False

    def from_number(self, number: int, limit: int) -> list[Entry]:
        at = bisect_left(self, number, lo=self.head, key=_number_of)
        return self[at : at + limit]  # type: ignore[return-value]

    def from_offset(self, offset: int) -> Entry | None:
        at = bisect_left(self, offset, lo=self.head, key=_offset_of)
        return self[at] if at < len(self) else None


class Window:
    """Holds messages for `max_age_s` after they came, and no more than `max_bytes` of them.

    Messages of a partition come in the order of their offsets; partitions are mixed at will.
    """

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._entries: deque[Entry] = deque()
        self._by_user: dict[str, _Line] = {}
        self._by_partition: dict[int, _Line] = {}
        self._floors: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._next_number = 0
        #: What it holds, by its own reckoning.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ends(self) -> Mapping[int, int]:
        """Per partition the offset after all that was looked at."""
        return self._ends

    @property
    def floors(self) -> Mapping[int, int]:
        """Per partition the first offset that is covered; the same partitions as `ends`."""
        return self._floors

    # What comes in

    def begin(self, partition: int, offset: int) -> None:
        """Cover a partition from `offset` on, and nothing that came of it before."""
        if self._by_partition.pop(partition, None) is not None:
            kept = [entry for entry in self._entries if entry.partition != partition]
            self._entries.clear()
            self._by_user.clear()
            self._by_partition.clear()
            self.bytes = 0
            for entry in kept:
                self._index(entry)
        self._floors[partition] = self._ends[partition] = offset

    def add(self, partition: int, offset: int, message: Message, now_s: float) -> None:
        """Keep a message, at or after the end of its partition; the oldest make room for it."""
        if partition not in self._ends:
            self.begin(partition, offset)
        self._ends[partition] = offset + 1
        size = ENTRY_BYTES + len(message.raw) + RECIPIENT_BYTES * len(message.recipients)
        entry = Entry(message, partition, offset, self._next_number, now_s, size)
        self._next_number += 1
        self._index(entry)
        self.trim(now_s)

    def advance(self, partition: int, end: int) -> None:
        """Note that everything below `end` was looked at; an end behind ours changes nothing."""
        if partition not in self._ends:
            self.begin(partition, end)
        elif end > self._ends[partition]:
            self._ends[partition] = end

    def trim(self, now_s: float) -> None:
        """Let go of what is too old or too much."""
        entries, oldest_s = self._entries, now_s - self._max_age_s
        while entries and (self.bytes > self._max_bytes or entries[0].kept_at < oldest_s):
            self._drop(entries.popleft())

    # What is asked

    def first_number(self, user: str, place: Mapping[int, int]) -> int | None:
        """Return the number from which on to read for a user who has everything below `place`.

        `place` has an offset per partition, 0 where it has none. None: there is nothing.
        """
        first = self._next_number
        for partition, line in self._by_partition.items():
            entry = line.from_offset(max(place.get(partition, 0), self._floors[partition]))
            if entry is not None and entry.number < first:
                first = entry.number
        return self.next_number(user, first)

    def next_number(self, user: str, number: int) -> int | None:
        """Return the number of a user's next message at or after `number`; None where there is none."""
        found = self.read(user, number, 1)
        return found[0].number if found else None

    def read(self, user: str, number: int, limit: int) -> list[Entry]:
        """Return so many of a user's messages, from `number` on, in the order they came."""
        line = self._by_user.get(user)
        return line.from_number(number, limit) if line is not None else []

    def holds(self, number: int) -> bool:
        """Whether the message of this number, and so each after it, is still in here."""
        return bool(self._entries) and number >= self._entries[0].number

    # Within

    def _index(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.bytes += entry.size
        by_user = self._by_user
        for user in entry.message.recipients:
            line = by_user.get(user)
            if line is None:
                line = by_user[user] = _Line()
            line.append(entry)
        by_partition = self._by_partition.get(entry.partition)
        if by_partition is None:
            by_partition = self._by_partition[entry.partition] = _Line()
        by_partition.append(entry)

    def _drop(self, entry: Entry) -> None:
        self.bytes -= entry.size
        self._floors[entry.partition] = entry.offset + 1
        for user in entry.message.recipients:
            if self._by_user[user].drop_first():
                del self._by_user[user]
        if self._by_partition[entry.partition].drop_first():
            del self._by_partition[entry.partition]
