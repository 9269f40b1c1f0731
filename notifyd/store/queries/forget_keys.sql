-- A user's newest messages of a key, with whatever becomes of their inbox rows.
DELETE FROM newest_of_key WHERE user_id = %(user)s
