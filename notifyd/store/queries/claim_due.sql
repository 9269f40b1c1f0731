-- Deliveries whose time to be looked at has come, the longest waiting first, locked for lease_due.sql: another
-- sweeper passes over them. `horizon`: up to there every event is stored. No lock is waited for here, so
-- none can be in a circle. A row that is locked stays in its place (ctid) until the transaction ends.
SELECT ctid::text, day::text
  FROM delivery
 WHERE next_check_at <= least(now(), from_ms(%(horizon)s)) AND state <> 'scheduled'
   AND (lease_until IS NULL OR lease_until <= now())
 ORDER BY next_check_at
 LIMIT %(limit)s
   FOR NO KEY UPDATE SKIP LOCKED
