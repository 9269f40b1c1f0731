-- Unread rows of a day whose time is over go, and count no more. Their messages are locked.
WITH gone AS (
    DELETE FROM inbox
     USING unnest(%(users)s::text[], %(messages)s::uuid[]) AS k(user_id, message_id)
     WHERE inbox.user_id = k.user_id AND inbox.message_id = k.message_id AND day = %(day)s::date
       AND read_at IS NULL
    RETURNING inbox.user_id
), counted AS (
    INSERT INTO user_state AS s (user_id, unread)
    SELECT user_id, -count(*) FROM gone GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET unread = s.unread + excluded.unread, changed_at = now()
)
SELECT count(*) FROM gone
