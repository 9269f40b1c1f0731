-- Count new inbox rows. Sent with the COMMIT, so that nobody waits long for a user's row: in batches of
-- many messages some user is in both of any two. What a new row holds in reserve (`room`) the next messages give back.
INSERT INTO user_state AS s (user_id, unread, days, odd_days, first_expiry)
SELECT user_id, count(*),
       -- `is_narrow`: all days are the same or neighbours, and need not be gathered.
       CASE WHEN %(is_narrow)s THEN datemultirange(daterange(min(day), max(day) + 1))
            ELSE range_agg(daterange(day, day + 1)) FILTER (WHERE NOT %(is_narrow)s) END,
       -- `may_be_odd`: it is as dear as all the rest, so it is asked only where it can be.
       coalesce(range_agg(daterange(day, day + 1))
                    FILTER (WHERE %(may_be_odd)s AND is_odd_arrival(from_ms(arrived_ms), day)), '{}'),
       from_ms(min(expires_ms))
  FROM unnest(%(inbox_users)s::text[], %(inbox_days)s::date[], %(inbox_arrived)s::bigint[],
              %(inbox_expires)s::bigint[]) AS given(user_id, day, arrived_ms, expires_ms)
 GROUP BY user_id
 ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE
   SET unread = s.unread + excluded.unread,
       days = CASE WHEN s.days @> excluded.days THEN s.days ELSE s.days + excluded.days END,
       odd_days = CASE WHEN isempty(excluded.odd_days) THEN s.odd_days ELSE s.odd_days + excluded.odd_days END,
       first_expiry = least(s.first_expiry, excluded.first_expiry), changed_at = now(), room = NULL
