SELECT state, kafka_partition, kafka_offset, raw, accepted_at, persisted_at, persisted_by, due_at, released_at,
       expires_at
  FROM message
 WHERE id = %(id)s::uuid AND day = %(day)s::date
