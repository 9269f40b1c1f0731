-- In one order for all (the caller sorts), before anything that belongs to a message is changed.
-- Row by row through the key: a join would have the planner read a whole day that it knows nothing of.
SELECT m.id::text, m.day::text, encode(m.digest, 'hex'), (date_part('epoch', m.begun_at) * 1000)::bigint
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT id, day, digest, coalesce(released_at, accepted_at) AS begun_at
                       FROM message
                      WHERE id = k.id AND day = k.day AND day = ANY(%(day_set)s::date[])
                        FOR NO KEY UPDATE) AS m
