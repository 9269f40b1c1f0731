SELECT user_id, channel, state, attempts, next_check_at, due_at, reason, detail, is_final
  FROM delivery
 WHERE message_id = %(id)s::uuid AND day = %(day)s::date
   AND (%(user)s::text IS NULL OR user_id = %(user)s::text)
 ORDER BY user_id, channel
