-- What is there already of messages that were not new: the same again, another one, or one that waits
-- for its time. Locked, for the last kind is changed next.
SELECT given.o, encode(m.digest, 'hex'),
       m.due_at IS NOT NULL AND m.released_at IS NULL AND m.due_at <= from_ms(given.a)
  FROM (SELECT *
          FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(o bigint, i uuid, d date, a bigint)
         ORDER BY i, d, o) AS given
 CROSS JOIN LATERAL (SELECT digest, due_at, released_at
                       FROM message
                      WHERE id = given.i AND day = given.d AND day = ANY(%(day_set)s::date[])
                        FOR NO KEY UPDATE) AS m
