-- Places, machines, who may come in, what each machine should run, and what it says it runs.

CREATE TABLE site (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    labels jsonb NOT NULL DEFAULT '{}',
    time_zone text NOT NULL DEFAULT 'UTC',
    policy text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL
);

CREATE TABLE host (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    site_id uuid NOT NULL REFERENCES site (id),
    -- Ed25519, long-lived: the host is this key.
    identity_key bytea NOT NULL UNIQUE CHECK (octet_length(identity_key) = 32),
    -- X25519: secrets are sealed to it.
    sealing_key bytea NOT NULL CHECK (octet_length(sealing_key) = 32),
    facts jsonb NOT NULL DEFAULT '{}',
    enrolled_at timestamptz NOT NULL,
    -- Both serials are good until the next one is first used.
    serial_current bytea NOT NULL,
    serial_next bytea,
    certificate_not_after timestamptz NOT NULL,
    -- The agent process whose session counts, and its place in the order of starts and hellos.
    run_id bytea,
    start_no bigint NOT NULL DEFAULT 0,
    hello_no bigint NOT NULL DEFAULT 0,
    fenced_at timestamptz
);
CREATE INDEX host_site ON host (site_id);

-- Processes whose session was superseded: one of them speaking again means that the host exists twice.
CREATE TABLE host_superseded (
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    run_id bytea NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (host_id, run_id)
);

-- Written in batches, often: kept apart from everything that is locked.
CREATE TABLE host_last_seen (
    host_id uuid PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE,
    at timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE host_desired (
    host_id uuid PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE,
    generation bigint NOT NULL,
    spec bytea NOT NULL,
    spec_sha256 bytea NOT NULL CHECK (octet_length(spec_sha256) = 32),
    updated_at timestamptz NOT NULL,
    -- Since when the agent holds a newer generation with other content: nothing is sent until an operator resumes.
    agent_ahead_at timestamptz,
    -- The generation the agent held then; resuming goes above it.
    agent_generation bigint
);

CREATE TABLE host_report (
    host_id uuid PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE,
    start_no bigint NOT NULL,
    report_no bigint NOT NULL,
    generation bigint NOT NULL,
    spec_sha256 bytea,
    health text NOT NULL,
    sync text NOT NULL,
    reason text,
    names jsonb NOT NULL DEFAULT '[]',
    instances jsonb NOT NULL DEFAULT '[]',
    facts jsonb NOT NULL DEFAULT '{}',
    outbox jsonb NOT NULL DEFAULT '[]',
    reported_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE enroll_token (
    id uuid PRIMARY KEY,
    -- SHA-256 of the token; the token itself is shown once and kept nowhere.
    hash bytea NOT NULL UNIQUE,
    site_id uuid NOT NULL REFERENCES site (id),
    host_name text,
    uses int NOT NULL CHECK (uses > 0),
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE enroll_use (
    token_id uuid NOT NULL REFERENCES enroll_token (id) ON DELETE CASCADE,
    identity_key bytea NOT NULL,
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    -- SHA-256 of the CSR's public key: a repeat must be the same request.
    csr_key bytea NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (token_id, identity_key)
);

CREATE TABLE operator_token (
    id uuid PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    created_at timestamptz NOT NULL,
    expires_at timestamptz
);

-- Roots and issuing authorities. Keys are sealed under the key file of the state folder.
CREATE TABLE pki_authority (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role text NOT NULL CHECK (role IN ('root', 'issuing')),
    certificate bytea NOT NULL,
    sealed_key bytea NOT NULL,
    not_before timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);

-- Certificates of hosts, found again by their key so that a repeated request gets the same answer.
CREATE TABLE pki_leaf (
    serial bytea PRIMARY KEY,
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    csr_key bytea NOT NULL,
    certificate bytea NOT NULL,
    issuer_id bigint NOT NULL REFERENCES pki_authority (id),
    not_after timestamptz NOT NULL,
    issued_at timestamptz NOT NULL,
    UNIQUE (host_id, csr_key)
);

CREATE TABLE artifact (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL
);

-- 256 KiB each, from 0 without holes.
CREATE TABLE artifact_chunk (
    digest bytea NOT NULL REFERENCES artifact (digest) ON DELETE CASCADE,
    idx int NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (digest, idx)
);

CREATE TABLE flow_set (
    name text NOT NULL,
    revision bigint NOT NULL,
    digest bytea NOT NULL REFERENCES artifact (digest),
    size_bytes bigint NOT NULL,
    node_count int NOT NULL,
    credential_names jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL,
    PRIMARY KEY (name, revision)
);

CREATE TABLE instance (
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    name text NOT NULL,
    revision bigint NOT NULL,
    spec jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (host_id, name)
);

CREATE TABLE instance_revision (
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    name text NOT NULL,
    revision bigint NOT NULL,
    spec jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (host_id, name, revision)
);

CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    reason text NOT NULL,
    warning bool NOT NULL,
    resource text NOT NULL,
    actor text NOT NULL,
    message text NOT NULL
);
CREATE INDEX event_at ON event (at DESC);
CREATE INDEX event_resource ON event (resource, at DESC);

-- The link as it was last told: a change is told once, whichever hub sees it.
CREATE TABLE host_link (
    host_id uuid PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE,
    link text NOT NULL,
    since timestamptz NOT NULL
);
