-- The bytes of messages as their producers wrote them.
SELECT k.id::text, m.raw
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT raw FROM message
                      WHERE id = k.id AND day = k.day AND day = ANY(%(day_set)s::date[])) AS m
