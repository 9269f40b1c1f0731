-- Messages of a day, in the order of their ids, whose content does not begin as it should.
SELECT id::text
  FROM message
 WHERE day = %(day)s::date AND id > %(after)s::uuid AND state <> 'held' AND octet_length(raw) > 0
   AND substring(raw FROM 1 FOR octet_length(%(prefix)s::bytea)) <> %(prefix)s::bytea
 ORDER BY id
 LIMIT %(limit)s
