-- Deliveries and events of some messages, which are locked, name an alias in the place of a user. Events get another
-- key, for theirs was made of the user id too.
WITH given AS MATERIALIZED (
    SELECT id, day FROM unnest(%(ids)s::uuid[], %(days)s::date[]) AS k(id, day)
), deliveries AS (
    UPDATE delivery AS d
       SET user_id = %(alias)s
      FROM given
     WHERE d.message_id = given.id AND d.user_id = %(user)s AND d.day = given.day
       AND d.day = ANY(%(day_set)s::date[])
    RETURNING 1
), events AS (
    UPDATE message_event AS e
       SET user_id = %(alias)s, event_key = gen_random_uuid(), detail = NULL
      FROM given
     WHERE e.message_id = given.id AND e.user_id = %(user)s AND e.day = given.day
       AND e.day = ANY(%(day_set)s::date[])
    RETURNING 1
)
SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM events)
