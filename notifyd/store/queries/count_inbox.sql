-- Count new inbox rows, a row here for each user. Sent with the COMMIT, so that nobody waits long for a user's row: in
-- batches of many messages some user is in both of any two. They are locked in one order, that of the column. Days
-- come as multiranges: NULL where all users have `all_days`, where none has odd ones; to read one is dear.
-- What a new row holds in reserve (`room`) the next messages give back.
INSERT INTO user_state AS s (user_id, unread, days, odd_days, first_expiry)
SELECT user_id, new,
       CASE WHEN days IS NULL THEN %(all_days)s::datemultirange ELSE days::datemultirange END,
       CASE WHEN odd_days IS NULL THEN '{}'::datemultirange ELSE odd_days::datemultirange END,
       from_ms(expires_ms)
  FROM unnest(%(counted_users)s::text[], %(counted_rows)s::integer[], %(counted_days)s::text[],
              %(counted_odd_days)s::text[], %(counted_expiries)s::bigint[])
       AS given(user_id, new, days, odd_days, expires_ms)
 ORDER BY user_id COLLATE "C"
    ON CONFLICT (user_id) DO UPDATE
   SET unread = s.unread + excluded.unread,
       days = CASE WHEN s.days @> excluded.days THEN s.days ELSE s.days + excluded.days END,
       odd_days = CASE WHEN isempty(excluded.odd_days) THEN s.odd_days ELSE s.odd_days + excluded.odd_days END,
       first_expiry = least(s.first_expiry, excluded.first_expiry), changed_at = now(), room = NULL
