SELECT message_id::text, day::text
  FROM inbox
 WHERE user_id = %(user)s AND day = ANY(%(days)s::date[]) AND read_at IS NULL AND expires_at <= now()
 LIMIT %(limit)s
