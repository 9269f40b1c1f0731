-- Take the places of messages that are not there, so that whoever is just writing one is waited for,
-- and whoever comes to it waits for us and then finds the events that we keep. What comes back was free.
INSERT INTO message (id, day, digest, state, incarnation_id, kafka_partition, kafka_offset, accepted_at,
                     persisted_by, created_at, sender, created_by, type, raw)
SELECT id, day, '', 'held', 0, 0, 0, now(), '', now(), '', '', '', ''
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 ORDER BY id, day
    ON CONFLICT (id, day) DO NOTHING
RETURNING id::text, day::text
