-- The bytes of messages as their producers wrote them, and the traces that these named.
SELECT k.id::text, m.raw, m.traceparent
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT raw, traceparent FROM message
                      WHERE id = k.id AND day = k.day AND day = ANY(%(day_set)s::date[])) AS m
