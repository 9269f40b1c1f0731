-- Events of deliveries, merged into their rows: the greatest wins by (success, run, attempt, rank), ties
-- by the rest of the event, as delivery/state.py says; a test holds the two together. The messages' rows
-- are locked (lock_messages.sql). Events of a delivery that does not exist leave no trace.
-- What comes back are the deliveries for which their messages' own states may be others now: whether each
-- came to an end, and when (Unix ms).
WITH event AS MATERIALIZED (
    SELECT *
      FROM jsonb_to_recordset(%(events)s::jsonb) AS given(
           k uuid, i uuid, d date, u text COLLATE "C", c text COLLATE "C", s text COLLATE "C",
           r text COLLATE "C", n integer, a bigint, due bigint, p text COLLATE "C", re text COLLATE "C",
           de text COLLATE "C")
), old AS MATERIALIZED (
    SELECT locked.*
      FROM (SELECT DISTINCT i, d, u, c FROM event ORDER BY i, u, c) AS e
     CROSS JOIN LATERAL (SELECT *
                           FROM delivery
                          WHERE message_id = e.i AND user_id = e.u AND channel = e.c AND day = e.d
                            AND day = ANY(%(day_set)s::date[])
                            FOR NO KEY UPDATE) AS locked
), logged AS (
    INSERT INTO message_event (message_id, event_key, day, user_id, channel, stage, run, attempt, at, due_at,
                               pod, reason, detail)
    SELECT i, k, d, u, c, s, r, n, from_ms(a), from_ms(due), p, re, de
      FROM event
     WHERE EXISTS (SELECT FROM old WHERE message_id = i AND user_id = u AND channel = c AND day = d)
     ORDER BY i, k
        ON CONFLICT DO NOTHING
    RETURNING 1
), candidate AS (
    SELECT i, d, u, c, s, r, n, from_ms(a) AS at, from_ms(due) AS due_at, p, re, de, n AS most
      FROM event
     WHERE stage_rank(s) IS NOT NULL
     UNION ALL
    SELECT message_id, day, user_id, channel, state, run, attempt, at, due_at, pod, reason, detail, attempts
      FROM old
), best AS (
    SELECT DISTINCT ON (i, d, u, c)
           *, max(most) OVER (PARTITION BY i, d, u, c) AS attempts,
           stage_is_final(c, s, de) AS is_final
      FROM candidate
     ORDER BY i, d, u, c,
              stage_success(s) DESC, r DESC, n DESC, stage_rank(s) DESC, at DESC, p DESC,
              coalesce(re, '') DESC, coalesce(de, '') DESC, due_at DESC NULLS LAST
), moved AS (
    UPDATE delivery
       SET state = best.s, run = best.r, attempt = best.n, at = best.at, due_at = best.due_at, pod = best.p,
           reason = best.re, detail = best.de, attempts = best.attempts, is_final = best.is_final, lease_until = NULL,
           next_check_at = CASE WHEN NOT best.is_final
               THEN greatest(now(), best.due_at) + %(check_after_s)s * interval '1 second' END
      FROM best, old
     WHERE delivery.message_id = best.i AND delivery.user_id = best.u AND delivery.channel = best.c
       AND delivery.day = best.d AND delivery.day >= %(first_day)s::date
       AND old.message_id = best.i AND old.user_id = best.u AND old.channel = best.c AND old.day = best.d
       AND (old.state, old.run, old.attempt, old.at, old.due_at, old.pod, old.reason, old.detail, old.attempts)
           IS DISTINCT FROM
           (best.s, best.r, best.n, best.at, best.due_at, best.p, best.re, best.de, best.attempts)
    RETURNING old.message_id, old.day,
              (old.is_final, old.state = 'dead', old.state = 'scheduled')
                  IS DISTINCT FROM (best.is_final, best.s = 'dead', best.s = 'scheduled') AS is_turn,
              best.is_final AND NOT old.is_final AS is_end, best.at,
              -- A label of metrics: no producer may make up new ones.
              CASE WHEN best.re = 'unknown_channel' THEN 'unknown' ELSE old.channel END AS channel
)
SELECT NULL::text, NULL::text, count(*), NULL::text, NULL::bigint FROM logged
 UNION ALL
SELECT message_id::text, day::text, is_end::integer, channel, (date_part('epoch', at) * 1000)::bigint
  FROM moved
 WHERE is_turn
