SELECT user_id, message_id::text
  FROM inbox
 WHERE day = %(day)s::date AND (user_id, message_id) > (%(user)s, %(id)s::uuid) AND read_at IS NULL
 ORDER BY user_id, message_id
 LIMIT %(limit)s
