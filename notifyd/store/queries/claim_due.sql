-- Deliveries whose time to be looked at has come, with what there is to judge them by. They are leased:
-- another sweeper passes over them, and finds them again should this one not come to an end.
-- `horizon`: up to there every event is stored. No lock is waited for here, so none can be in a circle.
WITH due AS MATERIALIZED (
    SELECT message_id, user_id, channel, day
      FROM delivery
     WHERE next_check_at <= least(now(), from_ms(%(horizon)s)) AND state <> 'scheduled'
     ORDER BY next_check_at
     LIMIT %(limit)s
       FOR NO KEY UPDATE SKIP LOCKED
), claimed AS (
    UPDATE delivery AS d
       SET next_check_at = now() + %(lease_s)s * interval '1 second'
      FROM due
     WHERE d.message_id = due.message_id AND d.user_id = due.user_id AND d.channel = due.channel
       AND d.day = due.day AND d.next_check_at IS NOT NULL
    RETURNING d.message_id, d.user_id, d.channel, d.day, d.state, d.run, d.attempt, d.at, d.resends,
              d.resend_run, d.reason
)
SELECT c.message_id::text, c.day::text, c.user_id, c.channel, c.state, c.run, c.attempt, to_ms(c.at), c.resends,
       c.resend_run, encode(m.digest, 'hex'), incarnation.name, coalesce(i.kafka_partition, m.kafka_partition),
       coalesce(i.kafka_offset, m.kafka_offset), to_ms(m.accepted_at), to_ms(m.expires_at),
       c.reason, i.seen_at IS NOT NULL OR i.read_at IS NOT NULL
  FROM claimed AS c
 CROSS JOIN LATERAL (SELECT * FROM message WHERE id = c.message_id AND day = c.day) AS m
  -- Of a message that was released the inbox has the position of the release.
  LEFT JOIN LATERAL (SELECT * FROM inbox
                      WHERE user_id = c.user_id AND message_id = c.message_id AND day = c.day) AS i ON true
  JOIN incarnation ON incarnation.id = coalesce(i.incarnation_id, m.incarnation_id)
 ORDER BY c.message_id, c.user_id, c.channel
