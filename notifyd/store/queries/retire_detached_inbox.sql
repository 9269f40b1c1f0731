WITH gone AS (
    DELETE FROM {partition} WHERE read_at IS NULL RETURNING user_id
)
INSERT INTO user_state AS s (user_id, unread)
SELECT user_id, -count(*) FROM gone GROUP BY user_id ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE SET unread = s.unread + excluded.unread, changed_at = now()
