-- Store what messages say anew. Their rows are locked (lock_messages.sql).
UPDATE message AS m
   SET raw = given.value
  FROM unnest(%(ids)s::uuid[], %(days)s::date[], %(values)s::bytea[]) AS given(id, day, value)
 WHERE m.id = given.id AND m.day = given.day AND m.day = ANY(%(day_set)s::date[])
