"""Who did what with a dead letter: so that nothing is done twice, and everybody can look it up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from notifyd.delivery.audit import Action, Handled, Place
from notifyd.store.pool import Database

_READ: Final = """
SELECT DISTINCT kafka_partition, kafka_offset FROM dlq_audit
  JOIN incarnation ON incarnation.id = incarnation_id AND incarnation.name = %(incarnation)s
  JOIN unnest(%(partitions)s::integer[], %(offsets)s::bigint[]) AS asked (p, o)
    ON kafka_partition = p AND kafka_offset = o
"""
_READ_ONE: Final = """
SELECT at, actor, action FROM dlq_audit
  JOIN incarnation ON incarnation.id = incarnation_id AND incarnation.name = %(incarnation)s
 WHERE kafka_partition = %(partition)s AND kafka_offset = %(offset)s ORDER BY dlq_audit.id
"""
_WRITE: Final = """
INSERT INTO dlq_audit
       (actor, action, incarnation_id, kafka_partition, kafka_offset, message_id, reason)
SELECT %(actor)s, %(action)s, incarnation.id, p, o, m, r
  FROM unnest(%(partitions)s::integer[], %(offsets)s::bigint[], %(messages)s::uuid[], %(reasons)s::text[])
       AS letter (p, o, m, r), incarnation WHERE incarnation.name = %(incarnation)s
"""
_ENSURE: Final = "INSERT INTO incarnation (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"


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

    async def handled(self, places: Collection[Place]) -> set[Place]:
        """Return those of these dead letters, each (partition, offset), that something was done with."""
        if not places:
            return set()
        partitions, offsets = zip(*places, strict=True)
        params = {
            "incarnation": self._incarnation,
            "partitions": list(partitions),
            "offsets": list(offsets),
        }
        return {(partition, offset) for partition, offset in await self._database.fetch(_READ, params)}

    async def entries(self, partition: int, offset: int) -> list[Entry]:
        """Return what was done with one, the first thing first."""
        params = {"incarnation": self._incarnation, "partition": partition, "offset": offset}
        rows = await self._database.fetch(_READ_ONE, params)
        return [Entry(str(at), actor, action) for at, actor, action in rows]

    async def write(self, letters: Sequence[Handled], *, actor: str, action: Action) -> None:
        """Note that `action` was done with these."""
        async with self._database.transaction() as tx:
            await tx.fetch(_ENSURE, {"name": self._incarnation})
            params = {
                "actor": actor,
                "action": action,
                "incarnation": self._incarnation,
                "partitions": [one.partition for one in letters],
                "offsets": [one.offset for one in letters],
                "messages": [one.message_id for one in letters],
                "reasons": [one.reason for one in letters],
            }
            await tx.commit(_WRITE, params)
