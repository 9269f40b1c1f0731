-- Lease what claim_due.sql found, with what there is to judge it by: should this sweeper not come to an end,
-- another finds it again. The days are constants here, so that the planner leaves out all others; each row is taken
-- from its place in the partition of its day, and what belongs to it looked up by key, for to join it would be to
-- read all there is. The columns are those of `Overdue`. (`to_ms` counts in numeric, a microsecond each; these are
-- exact to the millisecond, too.)
WITH incarnations AS MATERIALIZED (SELECT id, name FROM incarnation), claimed AS (
    UPDATE delivery AS d
       SET lease_until = now() + %(lease_s)s * interval '1 second'
      FROM unnest(%(places)s::tid[], %(days)s::date[]) AS due(place, day)
     WHERE d.ctid = due.place AND d.day = due.day AND d.day = ANY(%(day_set)s::date[])
    RETURNING d.message_id, d.user_id, d.channel, d.day, d.state, d.run, d.attempt, d.at, d.resends,
              d.resend_run, d.reason
)
SELECT c.message_id::text, c.day::text, encode(m.digest, 'hex'), c.user_id, c.channel, c.state, c.run, c.attempt,
       (date_part('epoch', c.at) * 1000)::bigint, c.resends, c.resend_run, incarnation.name,
       coalesce(i.kafka_partition, m.kafka_partition), coalesce(i.kafka_offset, m.kafka_offset),
       (date_part('epoch', m.accepted_at) * 1000)::bigint, (date_part('epoch', m.expires_at) * 1000)::bigint,
       c.reason IS NOT DISTINCT FROM 'fallback', i.seen_at IS NOT NULL OR i.read_at IS NOT NULL
  FROM claimed AS c
 CROSS JOIN LATERAL (SELECT * FROM message
                      WHERE id = c.message_id AND day = c.day AND day = ANY(%(day_set)s::date[])) AS m
  -- The inbox has the position of a release, and knows who has seen what; for all others it is not looked into,
  -- for nothing is found under the key NULL.
  LEFT JOIN LATERAL (SELECT * FROM inbox
                      WHERE message_id = CASE WHEN m.released_at IS NOT NULL OR c.reason = 'fallback'
                                              THEN c.message_id END
                        AND user_id = c.user_id AND day = c.day AND day = ANY(%(day_set)s::date[])) AS i
         ON true
  JOIN incarnations AS incarnation ON incarnation.id = coalesce(i.incarnation_id, m.incarnation_id)
 ORDER BY c.message_id, c.user_id, c.channel
