-- Inbox rows and unread counters of messages that were just released, at the position of the release.
WITH new_row AS (
    INSERT INTO inbox (user_id, message_id, day, incarnation_id, kafka_partition, kafka_offset, arrived_at,
                       expires_at)
    SELECT recipient, i, d, %(incarnation)s, %(partition)s, o, from_ms(a), from_ms(x)
      FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, a bigint, x bigint, u text[]),
           unnest(u) AS recipient
     ORDER BY recipient, i
        ON CONFLICT DO NOTHING
    RETURNING user_id
), counted AS (
    INSERT INTO user_state AS s (user_id, unread)
    SELECT user_id, count(*) FROM new_row GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET unread = s.unread + excluded.unread, changed_at = now()
)
SELECT count(*) FROM new_row
