-- The inbox forgets a user's rows of some messages, which are locked (lock_messages.sql), and what is open of their
-- deliveries ends here. Which deliveries there were comes back, and how many rows went, unread ones too.
WITH given AS MATERIALIZED (
    SELECT id, day FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
), gone AS (
    DELETE FROM inbox
     USING given
     WHERE user_id = %(user)s AND message_id = given.id AND inbox.day = given.day
       AND inbox.day = ANY(%(day_set)s::date[])
    RETURNING read_at
), ended AS (
    UPDATE delivery AS d
       SET state = CASE WHEN is_final THEN state ELSE 'skipped' END,
           reason = CASE WHEN is_final THEN reason ELSE 'forgotten' END,
           detail = NULL, is_final = true, next_check_at = NULL
      FROM given
     WHERE d.message_id = given.id AND d.user_id = %(user)s AND d.day = given.day
       AND d.day = ANY(%(day_set)s::date[])
    RETURNING d.message_id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM gone WHERE read_at IS NULL),
       (SELECT coalesce(array_agg(DISTINCT message_id::text), '{}') FROM ended)
