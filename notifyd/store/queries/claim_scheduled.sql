-- Messages whose notBefore has come, with their bytes and traces; leased, so that another sweeper passes over them.
WITH due AS MATERIALIZED (
    SELECT id, day
      FROM message
     WHERE state = 'scheduled' AND released_at IS NULL AND due_at <= now()
       AND (release_until IS NULL OR release_until <= now())
     ORDER BY due_at
     LIMIT %(limit)s
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE message AS m
   SET release_until = now() + %(lease_s)s * interval '1 second'
  FROM due
 WHERE m.id = due.id AND m.day = due.day
RETURNING m.id::text, m.raw, m.traceparent
