"""Who did what with a dead letter: so that nothing is done twice, and everybody can look it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from notifyd.store.pool import Database

_READ: Final = """
SELECT kafka_partition, kafka_offset FROM dlq_audit
  JOIN incarnation ON incarnation.id = incarnation_id AND incarnation.name = %(incarnation)s
"""
_READ_ONE: Final = """
SELECT at, actor, action FROM dlq_audit
  JOIN incarnation ON incarnation.id = incarnation_id AND incarnation.name = %(incarnation)s
 WHERE kafka_partition = %(partition)s AND kafka_offset = %(offset)s ORDER BY dlq_audit.id
"""
_WRITE: Final = """
INSERT INTO dlq_audit
       (actor, action, incarnation_id, kafka_partition, kafka_offset, message_id, reason, detail)
SELECT %(actor)s, %(action)s, incarnation.id, p, o, m, r, %(detail)s
  FROM unnest(%(partitions)s::integer[], %(offsets)s::bigint[], %(messages)s::uuid[], %(reasons)s::text[])
       AS letter (p, o, m, r), incarnation WHERE incarnation.name = %(incarnation)s
"""
_ENSURE: Final = "INSERT INTO incarnation (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class Handled:
    """A dead letter by its place on the DLQ. `message_id` where it has one."""

    partition: int
    offset: int
    message_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done: `at` as PostgreSQL writes it, `action` `replay` or `discard`."""

    at: str
    actor: str
    action: str


class Audit:
    """The audit of one life of the DLQ. Raises `TransientError` while the database is away."""

    def __init__(self, database: Database, incarnation: str) -> None:
        self._database = database
        self._incarnation = incarnation

    async def handled(self) -> set[tuple[int, int]]:
        """Return (partition, offset) of all dead letters that something was done with."""
        rows = await self._database.fetch(_READ, {"incarnation": self._incarnation})
        return {(partition, offset) for partition, offset in rows}

    async def entries(self, partition: int, offset: int) -> list[Entry]:
        """Return what was done with one, the first thing first."""
        params = {"incarnation": self._incarnation, "partition": partition, "offset": offset}
        rows = await self._database.fetch(_READ_ONE, params)
        return [Entry(str(at), actor, action) for at, actor, action in rows]

    async def write(
        self, letters: Sequence[Handled], *, actor: str, action: str, detail: str | None = None
    ) -> None:
        """Note that `action` was done with these."""
        async with self._database.transaction() as tx:
            await tx.fetch(_ENSURE, {"name": self._incarnation})
            params = {
                "actor": actor,
                "action": action,
                "detail": detail,
                "incarnation": self._incarnation,
                "partitions": [one.partition for one in letters],
                "offsets": [one.offset for one in letters],
                "messages": [one.message_id for one in letters],
                "reasons": [one.reason for one in letters],
            }
            await tx.commit(_WRITE, params)
