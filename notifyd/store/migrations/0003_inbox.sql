-- Reading: the inbox of a user, newest first, and all messages, newest first.

-- In which days' partitions a user has inbox rows, so that a page visits those and no others: a superset,
-- for rows may have gone since. `odd_days` are those among them with a row that arrived two days or more
-- before or after its day (released late, sent late): of all others the day tells when they arrived.
-- `first_expiry`: no unread row expires before; the counter is right until then (expire_inbox.sql).
ALTER TABLE user_state
    ADD COLUMN days datemultirange NOT NULL DEFAULT '{}',
    ADD COLUMN odd_days datemultirange NOT NULL DEFAULT '{}',
    ADD COLUMN first_expiry timestamptz;

CREATE FUNCTION is_odd_arrival(arrived_at timestamptz, day date) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (arrived_at AT TIME ZONE 'UTC') < day - 2 OR (arrived_at AT TIME ZONE 'UTC') >= day + 2;

CREATE INDEX inbox_newest ON inbox (user_id, arrived_at, message_id);
CREATE INDEX message_newest ON message (accepted_at, id);

UPDATE user_state AS s
   SET days = known.days, odd_days = known.odd_days, first_expiry = known.first_expiry
  FROM (SELECT user_id, range_agg(daterange(day, day + 1)) AS days,
               coalesce(range_agg(daterange(day, day + 1)) FILTER (WHERE is_odd_arrival(arrived_at, day)),
                        '{}') AS odd_days,
               min(expires_at) FILTER (WHERE read_at IS NULL) AS first_expiry
          FROM inbox
         GROUP BY user_id) AS known
 WHERE s.user_id = known.user_id;
