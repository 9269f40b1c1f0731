-- What messages say, as it is stored, and how far they are. Their rows are locked.
SELECT k.id::text, m.state, m.raw
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT state, raw FROM message
                      WHERE id = k.id AND day = k.day AND day = ANY(%(day_set)s::date[])) AS m
