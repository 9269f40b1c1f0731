-- What each ws process has passed. Those whose time ran out count as gone.
SELECT jsonb_object_agg(kafka_partition, start_offset), jsonb_object_agg(kafka_partition, done_offset),
       bool_or(expires_at > now())
  FROM pod_position
  JOIN incarnation ON incarnation.id = incarnation_id
 WHERE incarnation.name = %(incarnation)s
 GROUP BY boot_id
