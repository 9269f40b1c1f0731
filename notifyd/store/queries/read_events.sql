SELECT user_id, channel, stage, at, pod, attempt, reason, detail, due_at
  FROM message_event
 WHERE message_id = %(id)s::uuid AND day = %(day)s::date
   AND (%(user)s::text IS NULL OR user_id = %(user)s::text)
 ORDER BY at, run, attempt, stage_rank(stage) NULLS LAST, event_key
