"""The ledger of one partition: what was read, what is acknowledged, what may be committed. Pure.

One ledger lives as long as one assignment of its partition to this process (an epoch). It
is closed when the partition is taken away, and a closed ledger accepts no ack: a late one
changes nothing, and never reaches the life of the partition at its next owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import lt


class PartitionLedger:
    """Offsets read and not yet acknowledged; the commit never passes the lowest of them.

    `start` is the offset to read first. Offsets rise, with holes where the log has holes
    (compaction, control records), so the ledger remembers the offsets that it saw rather
    than counting. All operations take constant time per record.
    """

    __slots__ = ("_bytes", "_committed", "_is_closed", "_pending", "_position")

    def __init__(self, start: int) -> None:
        self._position = start
        self._committed: int | None = None
        # A dict keeps the order of insertion, so its first key is the lowest offset.
        self._pending: dict[int, int] = {}
        self._bytes = 0
        self._is_closed = False

    @property
    def position(self) -> int:
        """The offset that will be read next."""
        return self._position

    @property
    def in_flight(self) -> int:
        """How many records were read and are not acknowledged."""
        return len(self._pending)

    @property
    def in_flight_bytes(self) -> int:
        """The size of those records, as far as it was given."""
        return self._bytes

    @property
    def is_closed(self) -> bool:
        """Whether the epoch has ended."""
        return self._is_closed

    @property
    def committable(self) -> int:
        """The lowest offset not yet acknowledged: where a successor has to start reading."""
        return next(iter(self._pending), self._position)

    @property
    def uncommitted(self) -> int | None:
        """The offset to commit now; `None` where the broker already has it."""
        offset = self.committable
        return None if self._is_closed or offset == self._committed else offset

    def read(self, offsets: Iterable[int], position: int, sizes: Sequence[int] | None = None) -> None:
        """Enter records just read, in order; `position` is the offset to be read after them.

        `sizes` are those of the records in bytes. Raises `ValueError` for an offset that was
        read before, is out of order or lies beyond `position`: each would let the commit pass
        a record.
        """
        if self._is_closed:
            raise ValueError("the ledger is closed")
        offsets = list(offsets)
        if offsets:
            if offsets[0] < self._position or not all(map(lt, offsets, offsets[1:])):
                raise ValueError(f"offsets {offsets[:5]} ... do not rise from {self._position}")
            if position <= offsets[-1]:
                raise ValueError(f"position {position} is not beyond offset {offsets[-1]}")
        if sizes is None:
            self._pending.update(dict.fromkeys(offsets, 0))
        else:
            self._pending.update(zip(offsets, sizes, strict=True))
            self._bytes += sum(sizes)
        self._position = position

    def skip_to(self, position: int) -> None:
        """Move over offsets that hold no record for us (control records, compacted ones)."""
        if not self._is_closed and position > self._position:
            self._position = position

    def ack(self, offset: int) -> bool:
        """Acknowledge one record; false where it changes nothing (twice, unknown, closed)."""
        if self._is_closed:
            return False
        size = self._pending.pop(offset, None)
        if size is None:
            return False
        self._bytes -= size
        return True

    def ack_all(self, offsets: Iterable[int]) -> None:
        """Acknowledge many records; those that were acknowledged before do not matter."""
        pop = self._pending.pop
        for offset in offsets:
            self._bytes -= pop(offset, 0)

    def committed(self, offset: int) -> None:
        """Note that the broker has stored `offset` for the group."""
        if self._committed is None or offset > self._committed:
            self._committed = offset

    def close(self) -> None:
        """End the epoch: nothing is accepted from here on."""
        self._is_closed = True
        self._pending.clear()
        self._bytes = 0
