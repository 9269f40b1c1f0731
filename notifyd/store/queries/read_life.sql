-- A message with its deliveries and its events, as JSON: one statement, so one snapshot, planned for the day it is of.
SELECT m.state, m.kafka_partition, m.kafka_offset, m.raw, m.accepted_at, m.persisted_at, m.persisted_by, m.due_at,
       m.released_at, m.expires_at,
       (SELECT json_agg(json_build_array(user_id, channel, state, attempts, next_check_at, due_at, reason, detail,
                                         is_final)
                        ORDER BY user_id, channel)::text
          FROM delivery
         WHERE message_id = %(id)s::uuid AND day = %(day)s::date
           AND (%(user)s::text IS NULL OR user_id = %(user)s::text)),
       (SELECT json_agg(json_build_array(user_id, channel, stage, at, pod, attempt, reason, detail, due_at)
                        ORDER BY at, run, attempt, stage_rank(stage) NULLS LAST, event_key)::text
          FROM message_event
         WHERE message_id = %(id)s::uuid AND day = %(day)s::date
           AND (%(user)s::text IS NULL OR user_id = %(user)s::text))
  FROM message AS m
 WHERE m.id = %(id)s::uuid AND m.day = %(day)s::date
