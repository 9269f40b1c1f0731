-- The row is locked by lock_user_state.sql, so that whoever adds a row meanwhile comes after us.
UPDATE user_state
   SET first_expiry = (SELECT min(expires_at)
                         FROM inbox
                        WHERE user_id = %(user)s AND day = ANY(%(days)s::date[]) AND read_at IS NULL)
 WHERE user_id = %(user)s
