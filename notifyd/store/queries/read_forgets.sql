SELECT begun_at, ended_at, actor, alias, counts
  FROM forget_audit
 WHERE user_digest = %(digest)s
 ORDER BY begun_at
 LIMIT 100
