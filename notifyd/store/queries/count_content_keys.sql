-- What the content of a day's messages begins with: of sealed ones 1, the length of the key's id, and that id.
-- Only so many bytes are read of each, however long it is.
SELECT CASE WHEN get_byte(head, 0) = 1
            THEN convert_from(substring(head FROM 3 FOR get_byte(head, 1)), 'SQL_ASCII') END AS key_id,
       count(*)
  FROM (SELECT substring(raw FROM 1 FOR 34) AS head
          FROM message
         WHERE day = %(day)s::date AND state <> 'held' AND octet_length(raw) > 1) AS heads
 GROUP BY key_id
