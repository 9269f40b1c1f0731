-- Undo hold_unknown_messages.sql in the same transaction: nobody ever sees these rows.
DELETE FROM message AS m
 USING unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
 WHERE m.id = k.id AND m.day = k.day AND m.day >= %(first_day)s::date AND m.state = 'held'
