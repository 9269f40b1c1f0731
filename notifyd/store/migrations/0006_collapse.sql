-- Which message of a user is the newest of a sender's `collapseKey`. The ones before it are let go of in the inbox as
-- if they had expired. `key` is made of sender and key (notifyd/store/collapse.py); `passed_*`: the one that lost last.
CREATE TABLE newest_of_key (
    user_id    text COLLATE "C" NOT NULL,
    key        uuid NOT NULL,
    message_id uuid NOT NULL,
    day        date NOT NULL,
    arrived_at timestamptz NOT NULL,
    passed_id  uuid,
    passed_day date,
    PRIMARY KEY (user_id, key)
) WITH (fillfactor = 70);

CREATE INDEX newest_of_key_day ON newest_of_key (day);
