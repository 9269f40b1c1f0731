WITH past AS MATERIALIZED (
    SELECT user_id
      FROM user_state
     WHERE lower(days) < %(first_day)s::date
     ORDER BY user_id
     LIMIT %(limit)s
       FOR NO KEY UPDATE
)
UPDATE user_state AS s
   SET days = days * datemultirange(daterange(%(first_day)s::date, NULL)),
       odd_days = odd_days * datemultirange(daterange(%(first_day)s::date, NULL))
  FROM past
 WHERE s.user_id = past.user_id
RETURNING 1
