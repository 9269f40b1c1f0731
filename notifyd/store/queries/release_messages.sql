-- Messages whose notBefore has come: from here on their deliveries are due.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(o bigint, i uuid, d date, a bigint)
), released AS (
    UPDATE message AS m
       SET released_at = from_ms(a)
      FROM input
     WHERE m.id = i AND m.day = d AND m.day >= %(first_day)s::date
    RETURNING m.id, m.day, m.released_at
)
UPDATE delivery
   SET state = 'pending', at = released_at, pod = %(pod)s,
       next_check_at = now() + %(check_after_s)s * interval '1 second'
  FROM released
 WHERE delivery.message_id = released.id AND delivery.day = released.day
   AND delivery.day >= %(first_day)s::date AND delivery.state = 'scheduled'
