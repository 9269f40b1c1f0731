-- The newest message of a user for each of some keys (store/collapse.py), where a channel has it to deliver: one that
-- goes elsewhere stands in the inbox for those before it, and in the channel for nothing.
SELECT key::text, newest.message_id::text
  FROM newest_of_key AS newest
 WHERE user_id = %(user)s AND key = ANY(%(keys)s::uuid[])
   AND EXISTS (SELECT FROM delivery
                WHERE delivery.message_id = newest.message_id AND delivery.user_id = newest.user_id
                  AND delivery.channel = %(channel)s AND delivery.day = newest.day)
