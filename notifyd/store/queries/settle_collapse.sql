-- Each message of a key that came for a user, against the newest one so far: whichever lost comes back.
WITH input AS MATERIALIZED (
    SELECT user_id, key, id, day, from_ms(arrived_ms) AS arrived_at,
           row_number() OVER (PARTITION BY user_id, key ORDER BY arrived_ms DESC, id DESC) AS place
      FROM unnest(%(users)s::text[], %(keys)s::uuid[], %(ids)s::uuid[], %(days)s::date[], %(arrived)s::bigint[])
           AS given(user_id, key, id, day, arrived_ms)
), settled AS (
    INSERT INTO newest_of_key AS n (user_id, key, message_id, day, arrived_at)
    SELECT user_id, key, id, day, arrived_at FROM input WHERE place = 1
     ORDER BY user_id, key
        ON CONFLICT (user_id, key) DO UPDATE
       SET (message_id, day, arrived_at, passed_id, passed_day) = (
               SELECT won.id, won.day, won.arrived_at, lost.id, lost.day
                 FROM (VALUES (n.message_id, n.day, n.arrived_at),
                              (excluded.message_id, excluded.day, excluded.arrived_at)) AS won(id, day, arrived_at),
                      (VALUES (n.message_id, n.day), (excluded.message_id, excluded.day)) AS lost(id, day)
                WHERE lost.id <> won.id
                ORDER BY won.arrived_at DESC, won.id DESC
                LIMIT 1)
     WHERE n.message_id <> excluded.message_id
    RETURNING user_id, passed_id, passed_day
)
SELECT user_id, passed_id::text, passed_day::text FROM settled WHERE passed_id IS NOT NULL
 UNION ALL
SELECT user_id, id::text, day::text FROM input WHERE place > 1
 ORDER BY 1, 2
