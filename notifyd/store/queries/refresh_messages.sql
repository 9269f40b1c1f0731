-- The state of messages out of their deliveries, as delivery/state.py derives it.
UPDATE message AS m
   SET state = derived.state
  FROM (SELECT delivery.message_id, delivery.day,
               CASE WHEN bool_or(delivery.state = 'dead') THEN 'dead'
                    WHEN bool_and(delivery.is_final) THEN 'done'
                    WHEN bool_and(delivery.state = 'scheduled') THEN 'scheduled'
                    ELSE 'pending' END AS state
          FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
          JOIN delivery ON delivery.message_id = k.id AND delivery.day = k.day
         WHERE delivery.day = ANY(%(day_set)s::date[])
         GROUP BY delivery.message_id, delivery.day) AS derived
 WHERE m.id = derived.message_id AND m.day = derived.day AND m.day = ANY(%(day_set)s::date[])
   AND m.state <> derived.state
