-- In one order for all, before anything that belongs to a message is changed.
SELECT m.id::text, m.day::text, encode(m.digest, 'hex')
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
  JOIN message AS m ON m.id = k.id AND m.day = k.day
 WHERE m.day = ANY(%(day_set)s::date[])
 ORDER BY m.id, m.day
   FOR NO KEY UPDATE OF m
