SELECT next_offset
  FROM partition_mark
 WHERE incarnation_id = %(incarnation)s AND topic = %(topic)s AND kafka_partition = %(partition)s
   FOR UPDATE
