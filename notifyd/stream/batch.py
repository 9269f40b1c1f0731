"""What an agent receives: the records of one fetch of one partition, with their acks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from faust.types import TP

if TYPE_CHECKING:
    from notifyd.stream.flow import PartitionFlow

#: An `aiokafka.ConsumerRecord`: topic, partition, offset, timestamp (ms), key, value, headers.
Record = Any


class Batch:
    """Records of one partition, in order, covering offsets [`start`, `end`).

    `start` is where the batch before it ended and `end` the consumer's position after it, so
    that batches join without gaps even where the log has holes. Every record is acked by
    itself, from any task and in any order, and only once its effect is durable.
    """

    __slots__ = ("end", "flow", "records", "start")

    def __init__(self, flow: PartitionFlow, records: Sequence[Record], start: int, end: int) -> None:
        #: The life of the partition that this batch belongs to.
        self.flow = flow
        self.records = records
        self.start = start
        self.end = end

    @property
    def tp(self) -> TP:
        """Topic and partition."""
        return self.flow.tp

    @property
    def is_live(self) -> bool:
        """Whether work on it may still be started: the partition is ours and is not draining."""
        return self.flow.is_live

    def ack(self, offset: int) -> None:
        """Acknowledge one record, whose effect is durable. After a revocation this does nothing."""
        self.flow.ack(offset)

    def ack_all(self) -> None:
        """Acknowledge every record of the batch."""
        self.flow.ack_all(self.records)

    def split(self) -> list[Batch]:
        """Return one batch per record; together they cover the same offsets."""
        ends = [record.offset for record in self.records[1:]] + [self.end]
        starts = [self.start, *ends[:-1]]
        return [
            Batch(self.flow, [record], start, end)
            for record, start, end in zip(self.records, starts, ends, strict=True)
        ]

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Make one of batches of a partition that follow each other."""
        first = batches[0]
        if len(batches) == 1:
            return first
        records = [record for batch in batches for record in batch.records]
        return cls(first.flow, records, first.start, batches[-1].end)

    def emptied(self) -> Batch:
        """Return the same range of offsets without its records."""
        return Batch(self.flow, [], self.start, self.end)

    def __repr__(self) -> str:
        return f"<Batch {self.tp.topic}:{self.tp.partition} [{self.start}, {self.end})>"
