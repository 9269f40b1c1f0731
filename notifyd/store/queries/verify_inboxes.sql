-- Users from one to another (both included) whose row does not say what their inbox holds: the counter as
-- it is kept and as it is counted. In one statement, so in one moment: rows and counters change together.
SELECT user_id, s.unread, coalesce(i.unread, 0)
  FROM (SELECT * FROM user_state WHERE user_id >= %(first)s AND user_id <= %(last)s) AS s
  FULL JOIN (SELECT user_id, count(*) FILTER (WHERE read_at IS NULL) AS unread,
                    range_agg(daterange(day, day + 1)) AS days,
                    range_agg(daterange(day, day + 1)) FILTER (WHERE is_odd_arrival(arrived_at, day)) AS odd_days,
                    min(expires_at) FILTER (WHERE read_at IS NULL) AS first_expiry
               FROM inbox
              WHERE user_id >= %(first)s AND user_id <= %(last)s
              GROUP BY user_id) AS i USING (user_id)
 WHERE s.unread IS DISTINCT FROM coalesce(i.unread, 0)
    OR NOT s.days @> coalesce(i.days, '{}') OR NOT s.odd_days @> coalesce(i.odd_days, '{}')
    OR (i.first_expiry IS NOT NULL AND (s.first_expiry > i.first_expiry OR s.first_expiry IS NULL))
 ORDER BY user_id
