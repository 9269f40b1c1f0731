-- The row is locked by lock_mark.sql, so this cannot miss.
UPDATE partition_mark
   SET next_offset = %(end)s, moved_at = now()
 WHERE incarnation_id = %(incarnation)s AND topic = %(topic)s AND kafka_partition = %(partition)s
