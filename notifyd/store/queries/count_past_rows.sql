SELECT (SELECT count(*) FROM message_id WHERE day < %(message_id)s::date AND day > '-infinity'),
       (SELECT count(*) FROM early_event WHERE recorded_at < %(early_event)s::timestamptz),
       (SELECT count(*) FROM pod_position WHERE expires_at < %(pod_position)s::timestamptz),
       (SELECT count(*) FROM dlq_audit WHERE at < %(dlq_audit)s::timestamptz),
       (SELECT count(*) FROM newest_of_key WHERE day < %(newest_of_key)s::date)
