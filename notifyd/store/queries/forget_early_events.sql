WITH found AS (
    SELECT message_id, event_key FROM early_event WHERE event ->> 'u' = %(user)s LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
)
DELETE FROM early_event AS e
 USING found
 WHERE e.message_id = found.message_id AND e.event_key = found.event_key
RETURNING 1
