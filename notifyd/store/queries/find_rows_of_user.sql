-- The messages of one day of which any row names a user.
SELECT message_id::text
  FROM (SELECT message_id FROM inbox WHERE user_id = %(user)s AND day = %(day)s::date
         UNION
        SELECT message_id FROM delivery WHERE user_id = %(user)s AND day = %(day)s::date
         UNION
        SELECT message_id FROM message_event WHERE user_id = %(user)s AND day = %(day)s::date) AS found
 ORDER BY message_id
 LIMIT %(limit)s
