-- Something of these users has expired just now: the next who asks for their unread counter sees to that.
UPDATE user_state AS s
   SET first_expiry = least(first_expiry, now())
  FROM (SELECT user_id FROM user_state WHERE user_id = ANY(%(users)s::text[]) ORDER BY user_id FOR UPDATE) AS known
 WHERE s.user_id = known.user_id
