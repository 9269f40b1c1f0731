INSERT INTO early_event (message_id, event_key, event)
SELECT (event ->> 'i')::uuid, (event ->> 'k')::uuid, event
  FROM jsonb_array_elements(%(events)s::jsonb) AS event
    ON CONFLICT DO NOTHING
