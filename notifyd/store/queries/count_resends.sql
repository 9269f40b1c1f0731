-- The broker has them: each counts once, whoever comes to say so. The messages' rows are locked.
UPDATE delivery AS d
   SET resends = d.resends + 1, resend_run = NULL, lease_until = NULL,
       next_check_at = CASE WHEN d.is_final THEN NULL ELSE now() + %(check_after_s)s * interval '1 second' END
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(i uuid, d date, u text, c text, r text)
 WHERE d.message_id = given.i AND d.user_id = given.u AND d.channel = given.c AND d.day = given.d
   AND d.day >= %(first_day)s::date AND d.resend_run = given.r
