-- What became of some messages for one of their recipients.
SELECT k.id::text, d.channel, d.state, d.attempts, d.next_check_at, d.due_at, d.reason, d.detail, d.is_final, d.at
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT *
                       FROM delivery
                      WHERE message_id = k.id AND user_id = %(user)s AND day = k.day
                        AND day = ANY(%(day_set)s::date[])) AS d
 ORDER BY d.channel
