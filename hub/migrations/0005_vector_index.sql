-- What the index of vectors has taken from the landing. Its tables, one per collection, are made at run time where
-- PostgreSQL has pgvector: no migration knows them.

-- Which numbers of a stream of vectors the index has seen. What is committed and not in here is still to be taken: a row
-- that commits late is found like any other, because its number appears in `stream.committed` in the same moment.
CREATE TABLE vector_taken (
    stream_id bigint PRIMARY KEY REFERENCES stream (stream_id) ON DELETE CASCADE,
    taken int8multirange NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);

CREATE TABLE vector_table (
    collection text PRIMARY KEY REFERENCES collection (name) ON DELETE CASCADE,
    relation text NOT NULL UNIQUE,
    -- Vectors in it that are not deleted.
    live bigint NOT NULL DEFAULT 0,
    -- Why the table does not hold all of its collection; search then reads the landing.
    problem text,
    made_at timestamptz NOT NULL
);

-- Days of a class whose landed records were dropped.
CREATE TABLE landing_pruned (
    class text PRIMARY KEY,
    before timestamptz NOT NULL,
    rows bigint NOT NULL
);
