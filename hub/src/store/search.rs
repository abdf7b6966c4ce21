//! Collections and their vectors, read for search. Of every (collection, source, ordinal) the newest record counts, and a
//! tombstone means that there is none.
//!
//! Newest is by (beginning of the stream, number in it), never by an agent's clock. Scoring is not done here.
use super::{Act, Store, StoreError};
use futures_util::TryStreamExt as _;
use std::ops::ControlFlow;
use time::OffsetDateTime;

/// A collection with how many records have landed for it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CollectionRow {
    pub name: String,
    pub model: String,
    pub model_digest: String,
    pub dim: i32,
    pub metric: String,
    pub document_prefix: String,
    pub query_prefix: String,
    pub created_at: OffsetDateTime,
}

/// A vector as it landed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct VectorRow {
    pub stream_id: i64,
    pub seq: i64,
    pub collection: String,
    pub source: String,
    pub ordinal: i32,
    pub encoding: String,
    pub dim: i32,
    pub scale: f32,
    pub data: Vec<u8>,
    pub model_digest: String,
    pub tombstone: bool,
}

/// What is shown of a hit beside its score.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct HitRow {
    pub text: String,
    pub host: String,
}

macro_rules! newest {
    ($select:literal) => {
        concat!(
            "WITH newest AS (SELECT DISTINCT ON (v.source, v.ordinal) v.stream_id, v.seq, v.received_at, v.tombstone ",
            "FROM record_vector v JOIN stream s ON s.stream_id = v.stream_id WHERE v.collection = $1 ",
            "ORDER BY v.source, v.ordinal, s.first_seen_at DESC, v.stream_id DESC, v.seq DESC) ",
            $select
        )
    };
}

impl Store {
    /// Every collection by name.
    pub async fn list_collections(&self) -> Result<Vec<CollectionRow>, StoreError> {
        sqlx::query_as("SELECT * FROM collection ORDER BY name LIMIT 1000")
            .fetch_all(&self.pool)
            .await
            .act("listing collections")
    }

    /// Vectors of a collection that count. Reads all of its records.
    pub async fn count_vectors(&self, collection: &str) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(newest!("SELECT count(*) FROM newest WHERE NOT tombstone"))
            .bind(collection)
            .fetch_one(&self.pool)
            .await
            .act("counting vectors")?;
        Ok(count as u64)
    }

    /// Records that have landed for a collection, counted up to `most` and no further.
    pub async fn count_landed_vectors(&self, collection: &str, most: u64) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT 1 FROM record_vector WHERE collection = $1 LIMIT $2) landed",
        )
        .bind(collection)
        .bind(most as i64)
        .fetch_one(&self.pool)
        .await
        .act("counting vectors")?;
        Ok(count as u64)
    }

    /// Model digest and dimension of a record that does not belong into its collection, if there is one.
    pub async fn foreign_vector(&self, collection: &CollectionRow) -> Result<Option<(String, i32)>, StoreError> {
        sqlx::query_as(
            "SELECT model_digest, dim FROM record_vector WHERE collection = $1 AND (lower(model_digest) <> $2 OR dim <> $3) \
             LIMIT 1",
        )
        .bind(&collection.name)
        .bind(&collection.model_digest)
        .bind(collection.dim)
        .fetch_optional(&self.pool)
        .await
        .act("checking a collection")
    }

    /// Shows every vector that counts to `visit`, one at a time.
    pub async fn scan_vectors(
        &self,
        collection: &str,
        mut visit: impl FnMut(VectorRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let act = "searching a collection";
        let mut rows = sqlx::query_as::<_, VectorRow>(newest!(
            "SELECT v.stream_id, v.seq, v.collection, v.source, v.ordinal, v.encoding, v.dim, v.scale, v.data, \
             v.model_digest, v.tombstone FROM newest n JOIN record_vector v \
             ON v.stream_id = n.stream_id AND v.seq = n.seq AND v.received_at = n.received_at WHERE NOT n.tombstone"
        ))
        .bind(collection)
        .fetch(&self.pool);
        while let Some(row) = rows.try_next().await.act(act)? {
            if visit(row).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Have landed vectors been dropped, so that the landing does not say everything any more?
    pub async fn vectors_pruned(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM landing_pruned WHERE class = 'vector')")
            .fetch_one(&self.pool)
            .await
            .act("looking for dropped vectors")
    }

    /// One vector by its record.
    pub async fn vector(&self, stream_id: i64, seq: i64) -> Result<Option<VectorRow>, StoreError> {
        sqlx::query_as(
            "SELECT stream_id, seq, collection, source, ordinal, encoding, dim, scale, data, model_digest, tombstone \
             FROM record_vector WHERE stream_id = $1 AND seq = $2 LIMIT 1",
        )
        .bind(stream_id)
        .bind(seq)
        .fetch_optional(&self.pool)
        .await
        .act("reading a vector")
    }

    /// Text and host of a vector.
    pub async fn hit(&self, stream_id: i64, seq: i64) -> Result<Option<HitRow>, StoreError> {
        sqlx::query_as(
            "SELECT v.text, h.name AS host FROM record_vector v JOIN stream s ON s.stream_id = v.stream_id \
             JOIN host h ON h.id = s.host_id WHERE v.stream_id = $1 AND v.seq = $2 LIMIT 1",
        )
        .bind(stream_id)
        .bind(seq)
        .fetch_optional(&self.pool)
        .await
        .act("reading a hit")
    }
}
