"""Tells messages that took another's id, and doubles, as well as a window lets, before they are delivered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from notifyd.message.envelope import Message
from notifyd.stream.batch import Record

#: Messages that are remembered; about 4 MB.
RECENT_MESSAGES: Final = 20_000


class Told(Enum):
    """What a record is beside those before it."""

    FRESH = "fresh"
    #: The same bytes under the same id, as when a producer repeats what was not confirmed.
    DOUBLE = "double"
    #: Other bytes under the same id.
    CONFLICT = "conflict"


@dataclass(slots=True)
class _First:
    """The first record of an id: its offset and bytes, and where its deliveries began, if they did."""

    offset: int
    digest: int
    began_at: int | None


class RecentIds:
    """The first message of each id that a partition held lately.

    Within one partition everybody reads in the same order, so what is told here `persist` will
    tell too. Of two partitions nobody but `persist` knows which message came first: those pass.
    A double may be let go at once: no commit passes the first record before that one is settled.
    """

    def __init__(self, size: int = RECENT_MESSAGES) -> None:
        self._size = size
        self._first: OrderedDict[tuple[int, str], _First] = OrderedDict()

    def tell(self, record: Record, message: Message, *, begins: bool = True) -> Told:
        """Say what a record is; `begins`: it has deliveries to begin (one for later has none yet)."""
        place, digest = (record.partition, message.id), hash(message.raw)
        known = self._first.get(place)
        if known is None or known.offset >= record.offset:
            # New, or read again from further back: the lowest offset is the first message.
            self._first[place] = _First(record.offset, digest, record.offset if begins else None)
            if len(self._first) > self._size:
                self._first.popitem(last=False)
            return Told.FRESH
        if known.digest != digest:
            return Told.CONFLICT
        if known.began_at is not None and known.began_at < record.offset:
            return Told.DOUBLE
        if begins:
            known.began_at = record.offset
        return Told.FRESH

    def forget(self, record: Record, message_id: str) -> None:
        """Let the same message be done again: it was set aside, and may be replayed."""
        self._first.pop((record.partition, message_id), None)
