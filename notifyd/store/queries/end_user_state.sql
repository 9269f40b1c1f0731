-- The user's row is locked (lock_user_state.sql): who adds an inbox row meanwhile makes a new one after us.
DELETE FROM user_state WHERE user_id = %(user)s AND NOT EXISTS (SELECT FROM inbox WHERE user_id = %(user)s)
RETURNING 1
