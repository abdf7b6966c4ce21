-- Flow sets that share a runtime, as one tar. Made when a host's desired state is published, and found again by what it is made of.
CREATE TABLE merged_flow_set (
    -- SHA-256 over the instances' names and the digests of their flow sets, in order.
    parts bytea PRIMARY KEY CHECK (octet_length(parts) = 32),
    digest bytea NOT NULL REFERENCES artifact (digest),
    made_at timestamptz NOT NULL
);
CREATE INDEX merged_flow_set_digest ON merged_flow_set (digest);
