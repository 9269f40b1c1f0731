-- Note under which run deliveries are about to be sent again. They are leased by us.
UPDATE delivery AS d
   SET resend_run = given.r
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(i uuid, d date, u text, c text, r text)
 WHERE d.message_id = given.i AND d.user_id = given.u AND d.channel = given.c AND d.day = given.d
   AND d.day >= %(first_day)s::date
