-- Messages of one day before a place in it, newest first. What is not asked for is a constant, and the
-- planner leaves it out.
SELECT id::text, day, accepted_at, state, sender, created_by, type, kafka_partition, kafka_offset, due_at,
       expires_at, accepted_at
  FROM message
 WHERE day = %(day)s::date AND (accepted_at, id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
   AND accepted_at >= coalesce(%(since)s::timestamptz, '-infinity')
   AND accepted_at < coalesce(%(until)s::timestamptz, 'infinity')
   AND state <> 'held'
   AND (%(state)s::text IS NULL OR state = %(state)s::text)
   AND (%(sender)s::text IS NULL OR sender = %(sender)s::text)
   AND (%(type)s::text IS NULL OR type = %(type)s::text)
 ORDER BY accepted_at DESC, id DESC
 LIMIT %(limit)s
