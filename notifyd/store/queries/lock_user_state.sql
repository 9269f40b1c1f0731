SELECT unread, days::text FROM user_state WHERE user_id = %(user)s FOR NO KEY UPDATE
