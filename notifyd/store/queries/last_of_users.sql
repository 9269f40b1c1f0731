SELECT max(user_id), count(*)
  FROM (SELECT user_id FROM user_state WHERE user_id >= %(first)s ORDER BY user_id LIMIT %(limit)s) AS batch
