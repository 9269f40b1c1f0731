UPDATE forget_audit
   SET counts = %(counts)s::jsonb, ended_at = CASE WHEN %(is_end)s THEN clock_timestamp() END
 WHERE id = %(number)s
