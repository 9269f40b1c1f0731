-- The state of messages out of their deliveries, as delivery/state.py derives it. Their rows are locked.
UPDATE message AS m
   SET state = derived.state
  FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 CROSS JOIN LATERAL (SELECT CASE WHEN bool_or(state = 'dead') THEN 'dead'
                                 WHEN bool_and(is_final) THEN 'done'
                                 WHEN bool_and(state = 'scheduled') THEN 'scheduled'
                                 ELSE 'pending' END AS state
                       FROM delivery
                      WHERE message_id = k.id AND day = k.day AND day = ANY(%(day_set)s::date[])) AS derived
 WHERE m.id = k.id AND m.day = k.day AND m.day >= %(first_day)s::date
   AND m.state <> derived.state
