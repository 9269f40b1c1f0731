SELECT unread, days::text, odd_days::text, coalesce(first_expiry <= now(), false)
  FROM user_state
 WHERE user_id = %(user)s
