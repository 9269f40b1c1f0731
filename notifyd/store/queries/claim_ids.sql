-- Ids whose day is not in the id: the first claim of an id stands, over all days.
INSERT INTO message_id (id, day, digest)
SELECT i, d, decode(g, 'hex')
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, g text)
 ORDER BY i, o
    ON CONFLICT DO NOTHING
