SELECT event ->> 'u', event ->> 'c', event ->> 's', from_ms((event ->> 'a')::bigint), event ->> 'p',
       (event ->> 'n')::integer, event ->> 're', event ->> 'de', from_ms((event ->> 'due')::bigint)
  FROM early_event
 WHERE message_id = %(id)s::uuid
 ORDER BY (event ->> 'a')::bigint, event_key
