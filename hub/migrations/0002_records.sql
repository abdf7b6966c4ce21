-- What the hosts send up: which numbers of each stream are here, and the rows themselves.

CREATE TABLE stream (
    stream_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host_id uuid NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    class text NOT NULL CHECK (class IN ('vector', 'log', 'event', 'measurement')),
    epoch bytea NOT NULL CHECK (octet_length(epoch) = 16),
    -- Exactly-once is this column: a number is in here if and only if its row has landed.
    committed int8multirange NOT NULL DEFAULT '{}',
    -- Numbers that will never come, by the agent's own word.
    lost int8multirange NOT NULL DEFAULT '{}',
    -- Highest number known of. gap = [1, max_seq] - committed - lost
    max_seq bigint NOT NULL DEFAULT 0,
    -- Records that came again and were dropped.
    resent bigint NOT NULL DEFAULT 0,
    first_seen_at timestamptz NOT NULL,
    last_commit_at timestamptz,
    UNIQUE (host_id, class, epoch)
) WITH (fillfactor = 70);

-- A collection is what its first vector said; everything that does not match is refused by name.
CREATE TABLE collection (
    name text PRIMARY KEY,
    model text NOT NULL,
    model_digest text NOT NULL,
    dim int NOT NULL,
    metric text NOT NULL CHECK (metric IN ('cosine', 'l2', 'dot')),
    document_prefix text NOT NULL,
    query_prefix text NOT NULL,
    created_at timestamptz NOT NULL
);

-- Landing tables: a partition a day, by the hub's clock and never the agent's. The key holds `received_at` because a
-- partition key must; uniqueness of (stream_id, seq) across days is the stream row's duty. No foreign keys and no
-- further B-trees: these tables take the ingest.
CREATE TABLE record_vector (
    stream_id bigint NOT NULL,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    instance text,
    key text,
    collection text NOT NULL,
    source text NOT NULL,
    ordinal int NOT NULL,
    encoding text NOT NULL,
    dim int NOT NULL,
    scale real NOT NULL,
    -- Little-endian components; empty for a tombstone.
    data bytea NOT NULL,
    model text NOT NULL,
    model_digest text NOT NULL,
    text text NOT NULL,
    tombstone bool NOT NULL,
    PRIMARY KEY (stream_id, seq, received_at)
) PARTITION BY RANGE (received_at);
-- Vectors do not compress; trying costs a third of the ingest.
ALTER TABLE record_vector ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE record_log (
    stream_id bigint NOT NULL,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    instance text,
    key text,
    level text,
    line text NOT NULL,
    stream text NOT NULL,
    truncated bool NOT NULL,
    PRIMARY KEY (stream_id, seq, received_at)
) PARTITION BY RANGE (received_at);

CREATE TABLE record_event (
    stream_id bigint NOT NULL,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    instance text,
    key text,
    name text NOT NULL,
    payload jsonb NOT NULL,
    PRIMARY KEY (stream_id, seq, received_at)
) PARTITION BY RANGE (received_at);

CREATE TABLE record_measurement (
    stream_id bigint NOT NULL,
    seq bigint NOT NULL,
    received_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    instance text,
    key text,
    name text NOT NULL,
    value double precision NOT NULL,
    unit text NOT NULL,
    PRIMARY KEY (stream_id, seq, received_at)
) PARTITION BY RANGE (received_at);

-- Nothing should ever land here; `tasks/partitions` moves what did and raises an event.
CREATE TABLE record_vector_default PARTITION OF record_vector DEFAULT;
CREATE TABLE record_log_default PARTITION OF record_log DEFAULT;
CREATE TABLE record_event_default PARTITION OF record_event DEFAULT;
CREATE TABLE record_measurement_default PARTITION OF record_measurement DEFAULT;
