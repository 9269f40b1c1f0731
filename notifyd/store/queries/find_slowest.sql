-- Of the latest messages the deliveries that took longest from when they were due (accepted, or released) to
-- their first success, or else to their death. At most `scan` messages and as many deliveries are looked at.
-- An absent user's time is the user's: what was stored for one is left out.
WITH recent AS MATERIALIZED (
    SELECT id, day, accepted_at, coalesce(released_at, accepted_at) AS due_since
      FROM message
     WHERE day >= %(first_day)s::date AND accepted_at >= %(since)s::timestamptz
       AND state NOT IN ('held', 'scheduled')
     ORDER BY accepted_at DESC, id DESC
     LIMIT %(scan)s
), ended AS MATERIALIZED (
    SELECT id, recent.day, accepted_at, due_since, told.*
      FROM recent
     CROSS JOIN LATERAL (SELECT user_id, channel, bool_or(stage = 'stored') AS was_absent,
                                coalesce(min(at) FILTER (WHERE stage IN ('sent', 'acked')),
                                         max(at) FILTER (WHERE stage IN ('dead', 'failed'))) AS reached_at
                           FROM message_event
                          WHERE message_id = id AND message_event.day = recent.day
                            AND message_event.day >= %(first_day)s::date
                          GROUP BY user_id, channel) AS told
     LIMIT %(scan)s
), slowest AS MATERIALIZED (
    SELECT *
      FROM ended
     WHERE reached_at IS NOT NULL AND NOT was_absent
     ORDER BY reached_at - due_since DESC, id, user_id, channel
     LIMIT %(limit)s
)
SELECT found.*, looked_at.count
  FROM (SELECT greatest((SELECT count(*) FROM recent), (SELECT count(*) FROM ended)) AS count) AS looked_at
  LEFT JOIN (SELECT id::text, s.user_id, s.channel, d.state, d.attempts, s.due_since, s.reached_at, d.reason,
                    d.detail
               FROM slowest AS s
              CROSS JOIN LATERAL (SELECT *
                                    FROM delivery
                                   WHERE message_id = s.id AND user_id = s.user_id AND channel = s.channel
                                     AND day = s.day AND day >= %(first_day)s::date) AS d) AS found ON true
 ORDER BY reached_at - due_since DESC, id, user_id, channel
