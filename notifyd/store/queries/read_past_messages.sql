-- What came into a user's inbox in some ranges of offsets, with the originals, in order.
SELECT inbox.kafka_partition, inbox.kafka_offset, (extract(epoch FROM inbox.arrived_at) * 1000)::bigint,
       message.id::text, message.raw
  FROM unnest(%(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[]) AS span(number, first, stop)
  JOIN inbox ON inbox.kafka_partition = number AND inbox.kafka_offset >= first AND inbox.kafka_offset < stop
  JOIN incarnation ON incarnation.id = inbox.incarnation_id AND incarnation.name = %(incarnation)s
  JOIN message ON message.id = inbox.message_id AND message.day = inbox.day
 WHERE inbox.user_id = %(user)s
 ORDER BY inbox.kafka_partition, inbox.kafka_offset
 LIMIT %(limit)s
