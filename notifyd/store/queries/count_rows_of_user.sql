-- How many rows of one day name a user.
SELECT (SELECT count(*) FROM inbox WHERE user_id = %(user)s AND day = %(day)s::date),
       (SELECT count(*) FROM delivery WHERE user_id = %(user)s AND day = %(day)s::date),
       (SELECT count(*) FROM message_event WHERE user_id = %(user)s AND day = %(day)s::date)
