-- Inbox rows and unread counters (as count_inbox.sql has them) of messages that were just released, at the position of
-- the release.
WITH new_row AS (
    INSERT INTO inbox (user_id, message_id, day, incarnation_id, kafka_partition, kafka_offset, arrived_at,
                       expires_at)
    SELECT recipient, i, d, %(incarnation)s, %(partition)s, o, from_ms(a), from_ms(x)
      FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, a bigint, x bigint, u text[]),
           unnest(u) AS recipient
     ORDER BY recipient, i
        ON CONFLICT DO NOTHING
    RETURNING user_id, day, arrived_at, expires_at
), counted AS (
    INSERT INTO user_state AS s (user_id, unread, days, odd_days, first_expiry)
    SELECT user_id, count(*), range_agg(daterange(day, day + 1)),
           coalesce(range_agg(daterange(day, day + 1)) FILTER (WHERE is_odd_arrival(arrived_at, day)), '{}'),
           min(expires_at)
      FROM new_row
     GROUP BY user_id
     ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE
       SET unread = s.unread + excluded.unread, days = s.days + excluded.days,
           odd_days = s.odd_days + excluded.odd_days,
           first_expiry = least(s.first_expiry, excluded.first_expiry), changed_at = now(), room = NULL
)
SELECT count(*) FROM new_row
