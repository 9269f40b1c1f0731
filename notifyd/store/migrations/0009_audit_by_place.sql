-- Each batch of a replay asks which of its dead letters were replayed or discarded before.
CREATE INDEX IF NOT EXISTS dlq_audit_place ON dlq_audit (incarnation_id, kafka_partition, kafka_offset);
