INSERT INTO partition_mark (incarnation_id, topic, kafka_partition, first_offset, next_offset)
VALUES (%(incarnation)s, %(topic)s, %(partition)s, %(start)s, %(start)s)
ON CONFLICT DO NOTHING
