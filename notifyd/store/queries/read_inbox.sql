-- A user's rows before a position, newest first, out of some days: one index scan each, merged (by the
-- column: `message_id` alone would be the text that comes back, which no index is in the order of). Where the
-- days are a parameter the first and last one tell which partitions to pass over; a set of them would not.
SELECT message_id::text, day, arrived_at, seen_at, read_at, archived_at
  FROM inbox
 WHERE user_id = %(user)s AND day BETWEEN %(first_day)s::date AND %(last_day)s::date
   AND day = ANY(%(days)s::date[])
   AND (arrived_at, message_id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
   AND (expires_at IS NULL OR expires_at > now())
   AND (%(is_archived)s::boolean IS NULL OR (archived_at IS NOT NULL) = %(is_archived)s::boolean)
   AND CASE %(lacks)s WHEN 'seen' THEN seen_at IS NULL
                      WHEN 'read' THEN read_at IS NULL
                      WHEN 'archived' THEN archived_at IS NULL
                      ELSE true END
 ORDER BY arrived_at DESC, inbox.message_id DESC
 LIMIT %(limit)s
