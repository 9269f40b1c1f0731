"""Tells messages that took another's id, as well as a window lets, before they are delivered."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from notifyd.message.envelope import Message
from notifyd.stream.batch import Record

#: Messages that are remembered; about 4 MB.
RECENT_MESSAGES: Final = 20_000


class RecentIds:
    """The first message of each id that a partition held lately.

    Within one partition everybody reads in the same order, so what is told here `persist` will
    tell too. Of two partitions nobody but `persist` knows which message came first: those pass.
    """

    def __init__(self, size: int = RECENT_MESSAGES) -> None:
        self._size = size
        self._first: OrderedDict[tuple[int, str], tuple[int, int]] = OrderedDict()

    def is_taken(self, record: Record, message: Message) -> bool:
        """Say whether the id is that of an earlier record of this partition with other bytes."""
        place, found = (record.partition, message.id), (record.offset, hash(message.raw))
        known = self._first.get(place)
        if known is not None and known[0] < record.offset:
            return known[1] != found[1]
        # New, or read again from further back: the lowest offset is the first message.
        self._first[place] = found
        if len(self._first) > self._size:
            self._first.popitem(last=False)
        return False
