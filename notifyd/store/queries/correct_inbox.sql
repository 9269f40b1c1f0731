-- The user's row is locked (lock_user_state.sql): whoever adds or reads rows meanwhile counts them after us.
UPDATE user_state AS s
   SET unread = i.unread, days = s.days + i.days, odd_days = s.odd_days + i.odd_days,
       first_expiry = i.first_expiry, changed_at = now()
  FROM (SELECT count(*) FILTER (WHERE read_at IS NULL) AS unread,
               coalesce(range_agg(daterange(day, day + 1)), '{}') AS days,
               coalesce(range_agg(daterange(day, day + 1)) FILTER (WHERE is_odd_arrival(arrived_at, day)),
                        '{}') AS odd_days,
               min(expires_at) FILTER (WHERE read_at IS NULL) AS first_expiry
          FROM inbox
         WHERE user_id = %(user)s) AS i
 WHERE s.user_id = %(user)s
