-- As read_inbox.sql, of the messages of a type. Planned for its days each time: for all that there are, each
-- one's rows would be looked for in the messages of each.
SELECT message_id::text, day, arrived_at, seen_at, read_at, archived_at
  FROM inbox
 WHERE user_id = %(user)s AND day = ANY(%(days)s::date[])
   AND (arrived_at, message_id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
   AND (expires_at IS NULL OR expires_at > now())
   AND (%(is_archived)s::boolean IS NULL OR (archived_at IS NOT NULL) = %(is_archived)s::boolean)
   AND CASE %(lacks)s WHEN 'seen' THEN seen_at IS NULL
                      WHEN 'read' THEN read_at IS NULL
                      WHEN 'archived' THEN archived_at IS NULL
                      ELSE true END
   AND EXISTS (SELECT FROM message AS m
                WHERE m.id = inbox.message_id AND m.day = inbox.day AND m.day = ANY(%(days)s::date[])
                  AND m.type = %(type)s::text)
 ORDER BY arrived_at DESC, inbox.message_id DESC
 LIMIT %(limit)s
