DELETE FROM early_event WHERE message_id = ANY(%(ids)s::uuid[]) RETURNING event
