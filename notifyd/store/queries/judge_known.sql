-- What is there already of messages that were not new: the same again, another one, or one that waits
-- for its time. Locked, for the last kind is changed next.
SELECT given.o, encode(m.digest, 'hex'), m.due_at IS NOT NULL AND m.released_at IS NULL AND m.due_at <= from_ms(given.a)
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, a bigint)
  JOIN message AS m ON m.id = given.i AND m.day = given.d
 WHERE m.day = ANY(%(day_set)s::date[])
 ORDER BY m.id, m.day, given.o
   FOR NO KEY UPDATE OF m
