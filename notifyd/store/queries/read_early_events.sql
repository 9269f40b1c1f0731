SELECT event
  FROM early_event
 WHERE message_id = %(id)s::uuid
 ORDER BY (event ->> 'a')::bigint, event_key
