-- Messages whose notBefore has come: from here on their deliveries are due.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, a bigint)
), released AS (
    UPDATE message AS m
       SET released_at = from_ms(a)
      FROM input
     WHERE m.id = i AND m.day = d AND m.day >= %(first_day)s::date
    RETURNING m.id, m.day, m.released_at, m.accepted_at
)
UPDATE delivery
   SET state = 'pending', at = released_at, pod = %(pod)s,
       -- A fallback waits from here as long as it would have from the message's own time.
       due_at = CASE WHEN reason = 'fallback' THEN released_at + (due_at - accepted_at) ELSE due_at END,
       next_check_at = CASE WHEN reason = 'fallback' THEN released_at + (due_at - accepted_at)
                            ELSE now() + %(check_after_s)s * interval '1 second' END
  FROM released
 WHERE delivery.message_id = released.id AND delivery.day = released.day
   AND delivery.day >= %(first_day)s::date AND delivery.state = 'scheduled'
