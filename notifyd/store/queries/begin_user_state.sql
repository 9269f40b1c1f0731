INSERT INTO user_state (user_id) VALUES (%(user)s) ON CONFLICT DO NOTHING
