-- The record that the promise rests on: every message, every delivery, everything that happened.
--
-- Partitioned by the message's own day (the time within a version 7 id, else createDateTime), so that
-- a double, a resend or a late event meets its first copy in the same partition; retention drops
-- partitions. Keys start with the id, for operators who know no day.
--
-- Who changes deliveries or the inbox of a message first locks its row in `message`, in the order of
-- (id, day), and touches `user_state` last, in the order of user_id: no deadlocks, no lost update.
--
-- Text that is compared or sorted is COLLATE "C": by code point, as Python does, and quicker.

-- A life of the topics; offsets of different lives have nothing to do with each other.
CREATE TABLE incarnation (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text COLLATE "C" NOT NULL UNIQUE,
    first_seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE message (
    id              uuid NOT NULL,
    day             date NOT NULL,
    digest          bytea NOT NULL,          -- first 16 bytes of the SHA-256 of raw
    state           text NOT NULL,           -- scheduled, pending, done, dead
    -- The position of its first record.
    incarnation_id  integer NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL,
    accepted_at     timestamptz NOT NULL,    -- of that record, by Kafka
    persisted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    persisted_by    text NOT NULL,           -- the pod
    created_at      timestamptz NOT NULL,    -- createDateTime
    due_at          timestamptz,             -- notBefore, where it was ahead
    released_at     timestamptz,             -- and when it was due
    expires_at      timestamptz,
    sender          text COLLATE "C" NOT NULL,
    created_by      text COLLATE "C" NOT NULL,
    type            text COLLATE "C" NOT NULL,
    raw             bytea NOT NULL,          -- byte for byte as the producer wrote it
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);

-- Decides doubles and conflicts of ids that are not time-ordered, whose day is not in the id.
CREATE TABLE message_id (
    id     uuid PRIMARY KEY,
    day    date NOT NULL,
    digest bytea NOT NULL
);

CREATE TABLE inbox (
    user_id         text COLLATE "C" NOT NULL,
    message_id      uuid NOT NULL,
    day             date NOT NULL,
    -- Where it came to be due: of a scheduled message the position of its release.
    incarnation_id  integer NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL,
    arrived_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    seen_at         timestamptz,
    read_at         timestamptz,
    archived_at     timestamptz,
    PRIMARY KEY (user_id, message_id, day)
) PARTITION BY RANGE (day);

CREATE TABLE delivery (
    message_id    uuid NOT NULL,
    user_id       text COLLATE "C" NOT NULL,
    channel       text COLLATE "C" NOT NULL,
    day           date NOT NULL,
    -- The winning event, see apply_events.sql.
    state         text COLLATE "C" NOT NULL,
    run           text COLLATE "C" NOT NULL DEFAULT '',
    attempt       integer NOT NULL DEFAULT 0,
    at            timestamptz NOT NULL,
    due_at        timestamptz,
    pod           text COLLATE "C" NOT NULL,
    reason        text COLLATE "C",
    detail        text COLLATE "C",
    attempts      integer NOT NULL DEFAULT 0, -- the highest that any event told of
    is_final      boolean NOT NULL DEFAULT false,
    next_check_at timestamptz,                -- when the sweep looks; none: it need not
    PRIMARY KEY (message_id, user_id, channel, day)
) PARTITION BY RANGE (day);

CREATE INDEX delivery_next_check ON delivery (next_check_at) WHERE next_check_at IS NOT NULL;

CREATE TABLE message_event (
    message_id  uuid NOT NULL,
    event_key   uuid NOT NULL,               -- hash of all that follows: a repeated event is one row
    day         date NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    channel     text COLLATE "C" NOT NULL,
    stage       text COLLATE "C" NOT NULL,
    run         text COLLATE "C" NOT NULL,
    attempt     integer NOT NULL,
    at          timestamptz NOT NULL,
    due_at      timestamptz,
    pod         text COLLATE "C" NOT NULL,
    reason      text COLLATE "C",
    detail      text COLLATE "C",
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (message_id, event_key, day)
) PARTITION BY RANGE (day);

-- Events that came before their message: kept here until its row is written, seen by nobody.
CREATE TABLE early_event (
    message_id  uuid NOT NULL,
    event_key   uuid NOT NULL,
    event       jsonb NOT NULL,              -- as apply_events.sql reads it
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (message_id, event_key)
);

CREATE TABLE user_state (
    user_id    text COLLATE "C" PRIMARY KEY,
    unread     bigint NOT NULL DEFAULT 0,    -- rows of inbox without read_at
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- Per input partition the consumer position below which every row is committed.
CREATE TABLE partition_mark (
    incarnation_id  integer NOT NULL,
    topic           text COLLATE "C" NOT NULL,
    kafka_partition integer NOT NULL,
    first_offset    bigint NOT NULL,         -- where this record begins: nothing is known of what is below
    next_offset     bigint NOT NULL,
    moved_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation_id, topic, kafka_partition),
    CHECK (first_offset <= next_offset)
) WITH (fillfactor = 20);

-- What each ws pod has passed: below done_offset all its events are acknowledged.
CREATE TABLE pod_position (
    boot_id         text COLLATE "C" NOT NULL,
    incarnation_id  integer NOT NULL,
    kafka_partition integer NOT NULL,
    pod             text COLLATE "C" NOT NULL,
    start_offset    bigint NOT NULL,
    done_offset     bigint NOT NULL,
    connections     integer NOT NULL,
    seen_at         timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (boot_id, incarnation_id, kafka_partition)
) WITH (fillfactor = 50);

-- Who replayed or discarded what.
CREATE TABLE dlq_audit (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    actor           text NOT NULL,
    action          text NOT NULL,
    incarnation_id  integer NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL,
    message_id      uuid,
    reason          text NOT NULL,
    detail          text
);

-- The order of the stages within one attempt, from 1; no number: a stage of a later release.
-- delivery/event.py has the same list, and a test compares the two.
CREATE FUNCTION stage_rank(stage text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN array_position(ARRAY['scheduled', 'pending', 'attempting', 'retry_wait', 'stored', 'skipped',
                                'expired', 'failed', 'dead', 'sent', 'acked'], stage);

CREATE FUNCTION stage_success(stage text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE stage WHEN 'acked' THEN 2 WHEN 'sent' THEN 1 ELSE 0 END;

CREATE FUNCTION stage_is_final(channel text, stage text, detail text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN stage IN ('acked', 'skipped', 'expired', 'failed', 'dead')
        OR CASE WHEN channel = 'ws'
                THEN stage = 'stored' OR (stage = 'sent' AND coalesce(detail, '') = 'no_acks')
                ELSE stage = 'sent' END;

-- Unix milliseconds as they travel in events and envelopes, exact to the millisecond.
CREATE FUNCTION from_ms(ms bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp(ms / 1000.0::double precision);

-- Make the partitions of a day, and say whether it may have any. Days far from today may not: no input
-- can fill the catalogue. Attaching waits for no reader or writer, unlike CREATE ... PARTITION OF.
CREATE FUNCTION ensure_day(day date) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    part   text;
    today  date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF day IS NULL OR day < today - 400 OR day > today + 2 THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('notifyd.ensure_day', 0));
    FOREACH parent IN ARRAY ARRAY['message', 'inbox', 'delivery', 'message_event'] LOOP
        part := parent || '_p' || to_char(day, 'YYYYMMDD');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
            -- Room beside each row for its next version: states change, keys do not.
            EXECUTE format('ALTER TABLE %I SET (fillfactor = %s)', part,
                           CASE parent WHEN 'message_event' THEN 100 WHEN 'delivery' THEN 70 ELSE 85 END);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(part)) THEN
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, part, day, day + 1);
        END IF;
    END LOOP;
    RETURN true;
END
$$;
