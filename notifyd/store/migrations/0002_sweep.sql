-- What the sweep needs to know of its own work. No default is written into old rows, no row is rewritten.

-- How often the broker acknowledged a resend, and the run of one that may be under way: who takes over
-- from a sweeper that was killed sends that one again, rather than another.
ALTER TABLE delivery ADD COLUMN resends integer NOT NULL DEFAULT 0;
ALTER TABLE delivery ADD COLUMN resend_run text COLLATE "C";

-- Until when somebody is at work on the release of a scheduled message.
ALTER TABLE message ADD COLUMN release_until timestamptz;

CREATE FUNCTION to_ms(at timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(extract(epoch FROM at) * 1000)::bigint;

CREATE INDEX message_due ON message (due_at) WHERE state = 'scheduled' AND released_at IS NULL;
