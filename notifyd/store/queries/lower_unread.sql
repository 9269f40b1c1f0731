UPDATE user_state SET unread = unread - %(count)s, changed_at = now() WHERE user_id = %(user)s
