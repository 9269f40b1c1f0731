-- How old the oldest message is, in seconds since it was due, that has a delivery neither sent nor final: of
-- the first `scan` that the sweep has to look after. Fallbacks and scheduled ones wait on purpose.
WITH open AS MATERIALIZED (
    SELECT message_id, day, state
      FROM delivery
     WHERE next_check_at IS NOT NULL
     ORDER BY next_check_at
     LIMIT %(scan)s
)
SELECT coalesce(date_part('epoch', now() - min(m.begun_at)), 0)
  FROM (SELECT DISTINCT message_id, day FROM open WHERE state NOT IN ('scheduled', 'sent')) AS due
 CROSS JOIN LATERAL (SELECT coalesce(released_at, accepted_at) AS begun_at
                       FROM message
                      WHERE id = due.message_id AND day = due.day) AS m
