-- What ws processes say of themselves. Told again, or in another order, it is the same.
INSERT INTO pod_position AS p (boot_id, incarnation_id, kafka_partition, pod, start_offset, done_offset, connections,
                               seen_at, expires_at)
SELECT boot, %(incarnation)s, number, pod, start, done, connections, now(), now() + lasts * interval '1 second'
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS given(
       boot text, number integer, pod text, start bigint, done bigint, connections integer, lasts double precision)
 ORDER BY boot, number
    ON CONFLICT (boot_id, incarnation_id, kafka_partition) DO UPDATE
   SET start_offset = greatest(p.start_offset, excluded.start_offset),
       done_offset = greatest(p.done_offset, excluded.done_offset),
       connections = excluded.connections, seen_at = excluded.seen_at, expires_at = excluded.expires_at
