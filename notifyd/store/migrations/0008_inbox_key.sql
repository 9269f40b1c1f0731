-- Rows of an inbox are found by the message first: ids come in the order of time, so that the index grows at one end,
-- where that by the user took a page anywhere in it for each row. Who asks for a user's rows has `inbox_newest`.
CREATE UNIQUE INDEX inbox_by_message ON inbox (message_id, user_id, day);
ALTER TABLE inbox DROP CONSTRAINT inbox_pkey;
