-- The days that have a partition of messages, latest first.
SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day
  FROM pg_inherits
  JOIN pg_class ON pg_class.oid = inhrelid
 WHERE inhparent = 'message'::regclass
 ORDER BY day DESC
