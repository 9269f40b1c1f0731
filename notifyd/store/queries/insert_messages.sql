-- A batch of messages with their deliveries, and where they are due the inbox rows. NULL comes back where all
-- were new, else the offsets of those that were, whose inbox rows are to be counted (count_inbox.sql); and the
-- mark of the partition: where `expected` is given and is not that mark nothing is written.
-- Each column comes as an array, which the server reads in a third of the time that JSON takes it. The
-- originals come as one byte string and are cut out by place (from 1) and length, so that they are stored
-- byte for byte, whatever is in them; so do the digests. Deliveries and recipients name their message by its
-- number (from 1). A message that is new has no rows in the other tables, so only here can be a conflict.
WITH mark AS (
    SELECT next_offset
      FROM partition_mark
     WHERE incarnation_id = %(incarnation)s AND topic = %(topic)s AND kafka_partition = %(partition)s
), input AS MATERIALIZED (
    SELECT *
      FROM unnest(%(offsets)s::bigint[], %(ids)s::uuid[], %(days)s::date[], %(accepted)s::bigint[],
                  %(created)s::bigint[], %(due)s::bigint[], %(expires)s::bigint[], %(senders)s::text[],
                  %(creators)s::text[], %(types)s::text[], %(places)s::integer[], %(lengths)s::integer[],
                  %(traces)s::text[])
           WITH ORDINALITY AS given(kafka_offset, id, day, accepted_ms, created_ms, due_ms, expires_ms, sender,
                                    created_by, type, place, length, traceparent, number)
     WHERE %(expected)s::bigint IS NULL OR (SELECT next_offset FROM mark) = %(expected)s::bigint
), new_message AS (
    INSERT INTO message (id, day, digest, state, incarnation_id, kafka_partition, kafka_offset, accepted_at,
                         persisted_by, created_at, due_at, expires_at, sender, created_by, type, raw,
                         traceparent)
    SELECT id, day, substring(digests.value FROM number::integer * 16 - 15 FOR 16),
           CASE WHEN due_ms IS NULL THEN 'pending' ELSE 'scheduled' END,
           %(incarnation)s, %(partition)s, kafka_offset, from_ms(accepted_ms),
           %(pod)s, from_ms(created_ms), from_ms(due_ms), from_ms(expires_ms), sender, created_by, type,
           substring(originals.value FROM place FOR length), traceparent
      FROM input, (SELECT %(originals)s::bytea AS value) AS originals, (SELECT %(digests)s::bytea AS value) AS digests
     ORDER BY id, day, kafka_offset
        ON CONFLICT (id, day) DO NOTHING
    RETURNING kafka_offset
), fresh AS MATERIALIZED (
    SELECT input.* FROM new_message JOIN input USING (kafka_offset)
), new_delivery AS (
    -- Of a fallback (`after`) nobody takes care until the sweep finds that the user has not seen the message.
    INSERT INTO delivery (message_id, user_id, channel, day, state, at, due_at, pod, reason, next_check_at)
    SELECT id, user_id, channel, day, CASE WHEN due_ms IS NULL THEN 'pending' ELSE 'scheduled' END,
           from_ms(accepted_ms), from_ms(accepted_ms + after_ms), %(pod)s,
           CASE WHEN after_ms IS NOT NULL THEN 'fallback' END,
           CASE WHEN after_ms IS NOT NULL THEN from_ms(coalesce(due_ms, accepted_ms) + after_ms)
                WHEN due_ms IS NOT NULL THEN from_ms(due_ms)
                ELSE now() + %(check_after_s)s * interval '1 second' END
      FROM fresh
      JOIN unnest(%(delivery_of)s::bigint[], %(delivery_users)s::text[], %(channels)s::text[],
                  %(after)s::bigint[]) AS given(number, user_id, channel, after_ms) USING (number)
     ORDER BY id, user_id, channel
), new_row AS (
    INSERT INTO inbox (user_id, message_id, day, incarnation_id, kafka_partition, kafka_offset, arrived_at,
                       expires_at)
    SELECT user_id, id, day, %(incarnation)s, %(partition)s, kafka_offset, from_ms(accepted_ms),
           from_ms(expires_ms)
      FROM fresh
      JOIN unnest(%(recipient_of)s::bigint[], %(recipients)s::text[]) AS given(number, user_id) USING (number)
     WHERE due_ms IS NULL
     ORDER BY user_id, id
)
SELECT CASE WHEN count(*) < (SELECT count(*) FROM input) THEN coalesce(array_agg(kafka_offset), '{}') END,
       (SELECT next_offset FROM mark)
  FROM new_message
