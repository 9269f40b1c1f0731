-- As search_messages.sql, those that came into a user's inbox, in its order.
SELECT id::text, message.day, accepted_at, state, sender, created_by, type, message.kafka_partition,
       message.kafka_offset, due_at, message.expires_at, arrived_at
  FROM inbox
  JOIN message ON id = message_id AND message.day = %(day)s::date
 WHERE user_id = %(user)s AND inbox.day = %(day)s::date
   AND (arrived_at, message_id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
   AND accepted_at >= coalesce(%(since)s::timestamptz, '-infinity')
   AND accepted_at < coalesce(%(until)s::timestamptz, 'infinity')
   AND (%(state)s::text IS NULL OR state = %(state)s::text)
   AND (%(sender)s::text IS NULL OR sender = %(sender)s::text)
   AND (%(type)s::text IS NULL OR type = %(type)s::text)
 ORDER BY arrived_at DESC, message_id DESC
 LIMIT %(limit)s
