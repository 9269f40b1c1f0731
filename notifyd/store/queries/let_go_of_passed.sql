-- Inbox rows of messages that a newer one of their key has replaced: from now on as if they had expired.
UPDATE inbox
   SET expires_at = least(expires_at, now())
  FROM unnest(%(users)s::text[], %(ids)s::uuid[], %(days)s::date[]) AS passed(user_id, id, day)
 WHERE inbox.user_id = passed.user_id AND inbox.message_id = passed.id AND inbox.day = passed.day
   AND inbox.day = ANY(%(day_set)s::date[])
