-- The tables of single days, those too whose detaching or dropping was cut off: of which table and day,
-- how large, and how they hang together with it now.
SELECT parent, relname::text, to_date(right(relname, 8), 'YYYYMMDD')::text, pg_total_relation_size(c.oid),
       CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching' ELSE 'attached' END
  FROM unnest(ARRAY['inbox', 'delivery', 'message_event', 'message']) WITH ORDINALITY AS t(parent, turn)
  JOIN pg_class AS c ON c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class
                                                               WHERE oid = parent::regclass)
                    AND c.relname ~ ('^' || parent || '_p\d{8}$')
  LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
 ORDER BY right(relname, 8), turn
