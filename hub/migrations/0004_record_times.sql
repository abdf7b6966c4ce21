-- Reading the newest records: a few bytes per megabyte of rows, which the ingest does not feel.
CREATE INDEX record_vector_received ON record_vector USING brin (received_at);
CREATE INDEX record_log_received ON record_log USING brin (received_at);
CREATE INDEX record_event_received ON record_event USING brin (received_at);
CREATE INDEX record_measurement_received ON record_measurement USING brin (received_at);
