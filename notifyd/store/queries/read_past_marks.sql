-- Of which offsets everything is stored, per partition of a topic.
SELECT kafka_partition, first_offset, next_offset
  FROM partition_mark
  JOIN incarnation ON incarnation.id = incarnation_id
 WHERE name = %(incarnation)s AND topic = %(topic)s AND kafka_partition = ANY(%(partitions)s)
