INSERT INTO incarnation (name) VALUES (%(name)s) ON CONFLICT DO NOTHING
