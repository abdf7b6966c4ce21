-- Flows that were edited at a host, sent up because the instance's spec says so. Their bytes are artifacts.
CREATE TABLE flow_set_draft (
    flow_set text NOT NULL,
    number bigint NOT NULL,
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    instance text NOT NULL,
    base_revision bigint NOT NULL,
    digest bytea NOT NULL REFERENCES artifact (digest),
    size_bytes bigint NOT NULL,
    node_count int NOT NULL,
    credential_names jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL,
    adopted_revision bigint,
    PRIMARY KEY (flow_set, number)
);

CREATE INDEX flow_set_draft_digest ON flow_set_draft (digest);
