-- Deliveries that are open and of which nobody has spoken for long, those first that were silent the longest:
-- out of the first `scan` that the sweep has to look after. It never puts off a look for longer than
-- `ahead_s`, so what is beyond waits for a time of its own. A client that does not acknowledge is not stuck.
WITH open AS MATERIALIZED (
    SELECT message_id, user_id, channel, state, attempts, next_check_at, due_at, reason, detail,
           greatest(at, due_at) AS since, channel = 'ws' AND state = 'sent' AS is_client_s
      FROM delivery
     WHERE next_check_at <= now() + %(ahead_s)s * interval '1 second' AND state <> 'scheduled'
     ORDER BY next_check_at
     LIMIT %(scan)s
)
SELECT found.*, looked_at.count
  FROM (SELECT count(*) FROM open) AS looked_at
  LEFT JOIN (SELECT message_id::text, user_id, channel, state, attempts, next_check_at, due_at, reason, detail, since
               FROM open
              WHERE since <= now() - %(silent_s)s * interval '1 second' AND NOT is_client_s
              ORDER BY since, message_id, user_id, channel
              LIMIT %(limit)s) AS found ON true
 ORDER BY since, message_id, user_id, channel
