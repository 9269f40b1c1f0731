-- Unread rows that have expired are nobody's to read: they go, and count no more. Their messages are
-- locked (lock_messages.sql).
WITH gone AS (
    DELETE FROM inbox
     USING unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
     WHERE user_id = %(user)s AND message_id = k.id AND inbox.day = k.day
       AND inbox.day = ANY(%(day_set)s::date[]) AND read_at IS NULL AND expires_at <= now()
    RETURNING 1
)
UPDATE user_state
   SET unread = unread - (SELECT count(*) FROM gone), changed_at = now()
 WHERE user_id = %(user)s
