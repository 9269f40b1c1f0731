INSERT INTO forget_audit (user_digest, alias, actor) VALUES (%(digest)s, %(alias)s, %(actor)s) RETURNING id
