-- A user sees, reads or archives messages whose rows are locked (lock_messages.sql): what changes comes
-- back. `read` is seen as well, `archived` is read as well: the counter is of rows without read_at.
WITH old AS MATERIALIZED (
    SELECT locked.*
      FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
     CROSS JOIN LATERAL (SELECT message_id, day, seen_at, read_at, archived_at
                           FROM inbox
                          WHERE user_id = %(user)s AND message_id = k.id AND day = k.day
                            AND day = ANY(%(day_set)s::date[])
                            FOR NO KEY UPDATE) AS locked
), turned AS MATERIALIZED (
    SELECT *, clock_timestamp() AS at
      FROM old
     WHERE CASE %(change)s WHEN 'seen' THEN seen_at WHEN 'read' THEN read_at ELSE archived_at END IS NULL
), changed AS (
    UPDATE inbox
       SET seen_at = coalesce(inbox.seen_at, at),
           read_at = CASE WHEN %(change)s = 'seen' THEN inbox.read_at ELSE coalesce(inbox.read_at, at) END,
           archived_at = CASE WHEN %(change)s = 'archived' THEN at ELSE inbox.archived_at END
      FROM turned
     WHERE inbox.user_id = %(user)s AND inbox.message_id = turned.message_id AND inbox.day = turned.day
       AND inbox.day = ANY(%(day_set)s::date[])
), logged AS (
    INSERT INTO message_event (message_id, event_key, day, user_id, channel, stage, run, attempt, at, pod)
    SELECT message_id, gen_random_uuid(), day, %(user)s, 'ws', %(change)s, '', 1, at, %(pod)s
      FROM turned
     ORDER BY message_id
), counted AS (
    UPDATE user_state
       SET unread = unread - read.count, changed_at = now()
      FROM (SELECT count(*) FROM turned WHERE read_at IS NULL AND %(change)s <> 'seen') AS read
     WHERE user_id = %(user)s AND read.count > 0
)
SELECT message_id::text FROM turned
