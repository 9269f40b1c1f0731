-- As hold_unknown_messages.sql, for ids whose day is not in the id.
INSERT INTO message_id (id, day, digest)
SELECT id, '-infinity', '' FROM unnest(%(ids)s::uuid[]) AS k(id) ORDER BY id
    ON CONFLICT DO NOTHING
RETURNING id::text
