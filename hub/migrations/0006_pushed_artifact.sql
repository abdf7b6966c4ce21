-- Images and models that operators pushed. Their blobs lie in the folder of [artifacts] url, by digest.
CREATE TABLE pushed_artifact (
    kind text NOT NULL CHECK (kind IN ('image', 'model')),
    -- The image's reference in one spelling, or the model's name.
    reference text NOT NULL,
    -- Of the image's tar, or of the model's manifest.
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    -- What an engine calls the image; empty for a model.
    image_id text NOT NULL,
    -- [{"digest": "sha256:...", "bytes": 1}], the one above first.
    blobs jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    PRIMARY KEY (digest, kind, reference)
);
CREATE INDEX pushed_artifact_reference ON pushed_artifact (kind, reference, created_at DESC);
