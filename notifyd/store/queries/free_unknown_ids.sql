DELETE FROM message_id WHERE id = ANY(%(ids)s::uuid[]) AND day = '-infinity'
