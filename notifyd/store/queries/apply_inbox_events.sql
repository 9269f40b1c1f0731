-- What users did with inbox rows: `seen` and `read` add and never take away; the earliest time stays.
-- The messages' rows are locked (lock_messages.sql), so the counter changes once per row.
WITH event AS MATERIALIZED (
    SELECT *
      FROM jsonb_to_recordset(%(events)s::jsonb) AS given(
           k uuid, i uuid, d date, u text COLLATE "C", c text COLLATE "C", s text COLLATE "C",
           r text COLLATE "C", n integer, a bigint, due bigint, p text COLLATE "C", re text COLLATE "C",
           de text COLLATE "C")
), told AS MATERIALIZED (
    SELECT i, d, u, from_ms(min(a)) AS seen_at, from_ms(min(a) FILTER (WHERE s = 'read')) AS read_at
      FROM event
     GROUP BY i, d, u
     ORDER BY u, i
), old AS MATERIALIZED (
    SELECT locked.*, told.seen_at AS told_seen_at, told.read_at AS told_read_at
      FROM told
     CROSS JOIN LATERAL (SELECT user_id, message_id, day, read_at
                           FROM inbox
                          WHERE user_id = told.u AND message_id = told.i AND day = told.d
                            AND day = ANY(%(day_set)s::date[])
                            FOR NO KEY UPDATE) AS locked
), logged AS (
    INSERT INTO message_event (message_id, event_key, day, user_id, channel, stage, run, attempt, at, due_at,
                               pod, reason, detail)
    SELECT i, k, d, u, c, s, r, n, from_ms(a), from_ms(due), p, re, de
      FROM event
     WHERE EXISTS (SELECT FROM old WHERE message_id = i AND user_id = u AND day = d)
     ORDER BY i, k
        ON CONFLICT DO NOTHING
    RETURNING 1
), changed AS (
    UPDATE inbox
       SET seen_at = least(inbox.seen_at, told_seen_at), read_at = least(inbox.read_at, told_read_at)
      FROM old
     WHERE inbox.user_id = old.user_id AND inbox.message_id = old.message_id AND inbox.day = old.day
       AND inbox.day >= %(first_day)s::date
), counted AS (
    INSERT INTO user_state AS s (user_id, unread)
    SELECT user_id, -count(*)
      FROM old
     WHERE read_at IS NULL AND told_read_at IS NOT NULL
     GROUP BY user_id
     ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET unread = s.unread + excluded.unread, changed_at = now()
)
SELECT count(*) FROM logged
