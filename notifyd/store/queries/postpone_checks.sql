-- Look at these again later. The messages' rows are locked.
UPDATE delivery AS d
   SET next_check_at = now() + given.s * interval '1 second', lease_until = NULL
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(i uuid, d date, u text, c text, s double precision)
 WHERE d.message_id = given.i AND d.user_id = given.u AND d.channel = given.c AND d.day = given.d
   AND d.day >= %(first_day)s::date AND d.next_check_at IS NOT NULL
