SELECT id::text, day::text FROM message_id WHERE id = ANY(%(ids)s::uuid[])
