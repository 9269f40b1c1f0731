-- A batch of messages with their deliveries, and where they are due the inbox rows and unread counters;
-- the offsets of those that were new come back.
-- The originals come as one byte string and are cut out by position (from 1) and length, so that they
-- are stored byte for byte, whatever is in them; what is read out of them comes as one JSON array.
WITH input AS MATERIALIZED (
    SELECT *
      FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(
           o bigint, i uuid, d date, g text, s text, b text, t text, c bigint, a bigint, n bigint, x bigint,
           p integer, l integer, u text[], ch text[], f text[], fa bigint)
), new_message AS (
    INSERT INTO message (id, day, digest, state, incarnation_id, kafka_partition, kafka_offset, accepted_at,
                         persisted_by, created_at, due_at, expires_at, sender, created_by, type, raw)
    SELECT i, d, decode(g, 'hex'), CASE WHEN n IS NULL THEN 'pending' ELSE 'scheduled' END,
           %(incarnation)s, %(partition)s, o, from_ms(a),
           %(pod)s, from_ms(c), from_ms(n), from_ms(x), s, b, t, substring(originals.value FROM p FOR l)
      FROM input, (SELECT %(originals)s::bytea AS value) AS originals
     ORDER BY i, d, o
        ON CONFLICT (id, day) DO NOTHING
    RETURNING kafka_offset
), new_delivery AS (
    INSERT INTO delivery (message_id, user_id, channel, day, state, at, pod, next_check_at)
    SELECT i, recipient, channel, d, CASE WHEN n IS NULL THEN 'pending' ELSE 'scheduled' END,
           from_ms(a), %(pod)s, CASE WHEN n IS NULL THEN now() + %(check_after_s)s * interval '1 second'
                                     ELSE from_ms(n) END
      FROM new_message
      JOIN input ON o = kafka_offset,
           unnest(u) AS recipient, unnest(ch) AS channel
     ORDER BY i, recipient, channel
        ON CONFLICT DO NOTHING
), new_fallback AS (
    -- Nobody works on these until the sweep finds that the user has not seen the message by then.
    INSERT INTO delivery (message_id, user_id, channel, day, state, at, due_at, pod, reason, next_check_at)
    SELECT i, recipient, channel, d, CASE WHEN n IS NULL THEN 'pending' ELSE 'scheduled' END,
           from_ms(a), from_ms(a + fa), %(pod)s, 'fallback', from_ms(coalesce(n, a) + fa)
      FROM new_message
      JOIN input ON o = kafka_offset,
           unnest(u) AS recipient, unnest(f) AS channel
     WHERE f IS NOT NULL
     ORDER BY i, recipient, channel
        ON CONFLICT DO NOTHING
), new_row AS (
    INSERT INTO inbox (user_id, message_id, day, incarnation_id, kafka_partition, kafka_offset, arrived_at,
                       expires_at)
    SELECT recipient, i, d, %(incarnation)s, %(partition)s, o, from_ms(a), from_ms(x)
      FROM new_message
      JOIN input ON o = kafka_offset,
           unnest(u) AS recipient
     WHERE n IS NULL
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
           first_expiry = least(s.first_expiry, excluded.first_expiry), changed_at = now()
)
SELECT kafka_offset FROM new_message
